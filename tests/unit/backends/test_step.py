"""What all backends share: the samples of a step, dropout, precision, first weights, checks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from image_classification.backends.state import checked_weights, initial_tensor
from image_classification.backends.step import (
    StepSamples,
    gpu_precisions,
    kept_features,
    precision_of,
)
from image_classification.errors import ArtifactError
from tests.unit.backends.torch_cases import SMALL

# ---- samples


def test_samples_of_weight_0_stay_out_and_their_logits_are_zeros() -> None:
    samples = StepSamples.of(np.array([1, 0, 2, 0], np.float32))
    assert samples.indices.tolist() == [0, 2] and samples.weights.tolist() == [1, 2]
    assert samples.has_weight and not samples.is_whole
    logits = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert samples.scattered(logits).tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 6], [0, 0, 0]]


def test_a_single_sample_enters_twice_with_half_its_weight() -> None:
    samples = StepSamples.of(np.array([0, 0.5, 0], np.float32))
    assert samples.indices.tolist() == [1, 1] and samples.weights.tolist() == [0.25, 0.25]
    logits = np.full((2, 3), 7, np.float32)
    assert samples.scattered(logits).tolist() == [[0, 0, 0], [7, 7, 7], [0, 0, 0]]


def test_a_batch_of_padding_enters_whole_with_weights_of_0() -> None:
    samples = StepSamples.of(np.zeros(3, np.float32))
    assert samples.indices.tolist() == [0, 1, 2] and samples.weights.tolist() == [0, 0, 0]
    assert not samples.has_weight and samples.is_whole


def test_a_full_batch_enters_unchanged() -> None:
    samples = StepSamples.of(np.ones(3, np.float32))
    logits = np.eye(3, dtype=np.float32)
    assert samples.is_whole and samples.scattered(logits) is logits


# ---- dropout


def test_dropout_drops_its_rate_and_depends_on_step_rank_and_seed_alone() -> None:
    def kept(*key: int) -> np.ndarray:
        mask = kept_features(
            dataclasses.replace(SMALL, dropout_rate=0.3, seed=key[0]), (50, 200), *key[1:]
        )
        assert mask is not None
        return mask

    assert kept(1, 2, 0).mean() == pytest.approx(0.7, abs=0.02)
    assert np.array_equal(kept(1, 2, 0), kept(1, 2, 0))
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not np.array_equal(kept(1, 2, 0), kept(*other))


def test_without_dropout_there_is_no_mask() -> None:
    assert kept_features(SMALL, (2, 3), 0, 0) is None


# ---- precision


@pytest.mark.parametrize(
    ("asked", "has", "chosen"),
    [
        ("auto", {"float32", "bfloat16"}, "float32"),  # a CPU
        ("auto", {"float32", "float16"}, "float16"),  # V100 and T4
        ("auto", {"float32", "float16", "bfloat16"}, "bfloat16"),
        ("bfloat16", {"float32", "bfloat16"}, "bfloat16"),
        ("float16", {"float32", "bfloat16"}, "float32"),
    ],
)
def test_steps_have_the_precision_of_the_job_if_the_device_has_it(
    asked: str, has: set[str], chosen: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert precision_of(asked, has, "PyTorch", "cpu") == chosen
    warned = "precision=float16: PyTorch computes in float32 on cpu" in caplog.text
    assert warned == (asked == "float16")


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        ((6, 0), {"float32"}),
        ((7, 0), {"float32", "float16"}),
        ((7, 5), {"float32", "float16"}),
        ((8, 0), {"float32", "float16", "bfloat16"}),
        ((12, 0), {"float32", "float16", "bfloat16"}),
    ],
)
def test_a_gpu_has_the_precisions_that_it_has_units_for(
    capability: tuple[int, int], names: set[str]
) -> None:
    assert gpu_precisions(capability) == names


# ---- first weights


@pytest.mark.parametrize(
    ("shape", "fan_in"), [((64, 32, 3, 3), 288), ((500, 256), 256), ((512, 1, 5, 5), 25)]
)
def test_weights_are_gaussian_by_fan_in_of_magnitude_two(
    shape: tuple[int, ...], fan_in: int
) -> None:
    drawn = initial_tensor("stage1.block1.conv1.weight", shape, seed=3)
    assert drawn.dtype == np.float32 and drawn.shape == shape
    assert drawn.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.02)
    assert abs(drawn.mean()) < 4 * np.sqrt(2 / fan_in) / np.sqrt(drawn.size)


def test_weights_depend_on_seed_and_name_alone() -> None:
    first = initial_tensor("head.weight", (4, 8), 0)
    assert np.array_equal(first, initial_tensor("head.weight", (4, 8), 0))
    assert not np.array_equal(first, initial_tensor("head.weight", (4, 8), 1))
    assert not np.array_equal(first, initial_tensor("tail.weight", (4, 8), 0))


def test_a_seed_gives_the_same_numbers_in_every_version() -> None:
    """Otherwise a new version would give other first weights for the same seed."""
    drawn = initial_tensor("head.weight", (1, 4), 0)
    np.testing.assert_allclose(drawn, [[2.3475163, 0.6421838, 0.23118804, 0.9460535]], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("bn.weight", 1), ("bn.running_var", 1), ("bn.bias", 0), ("bn.running_mean", 0)),
        ("head.bias", 0),
    ],
)
def test_batch_norms_start_at_1_and_biases_at_0(name: str, value: int) -> None:
    assert initial_tensor(name, (5,), 1).tolist() == [value] * 5


# ---- checks

SHAPES = {"stem.weight": (2, 3), "head.weight": (4, 2), "head.bias": (4,)}


def state(**changes: tuple[int, ...] | None) -> dict[str, np.ndarray]:
    shapes = SHAPES | {name.replace("_", "."): shape for name, shape in changes.items()}
    return {f"weight/{k}": np.zeros(v, np.float32) for k, v in shapes.items() if v is not None}


@pytest.mark.parametrize("change", [{"head_bias": None}, {"head_weight": (5, 2)}])
def test_a_head_that_does_not_fit_is_left_out(change: dict[str, tuple[int, ...] | None]) -> None:
    assert set(checked_weights(state(**change), SHAPES, "net")) == {"stem.weight"}


def test_weights_that_fit_are_returned_without_their_prefix() -> None:
    assert set(checked_weights(state(), SHAPES, "net")) == set(SHAPES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem_weight": None}, r"'stem.weight' should be \(2, 3\) but is absent"),
        ({"stem_weight": (2, 4)}, r"'stem.weight' should be \(2, 3\) but is \(2, 4\)"),
        ({"tail_weight": (1,)}, r"'tail.weight' should be absent but is \(1,\)"),
    ],
)
def test_weights_of_another_network_are_rejected_by_name(
    change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    with pytest.raises(ArtifactError, match="weights of 'net' with this input: " + message):
        checked_weights(state(**change), SHAPES, "net")
