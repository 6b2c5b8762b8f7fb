"""Training in each precision ends with the same loss, and a saved state continues as if unsaved.

The problem can be learned in some steps, but its loss cannot become 0 (labels are smoothed), so
that two losses can be compared by their ratio.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from device_checks import networks
from device_checks.one import Given
from device_checks.rows import Rows
from image_classification.backends import base
from image_classification.backends.torch import optimizer
from image_classification.samples import Batch, Float64Array
from image_classification.training.step import smooth_labels

PRECISIONS = ("float32", "bfloat16", "float16")
RATIO = 0.02
_SPEC = replace(networks.spec_of("resnet20", 32), seed=1)
_RATE = 0.02
_SMOOTHING = 0.3
_HUGE_SCALE = 2.0**127  # the scaled loss overflows in any format, together with _HUGE_SHARE
_HUGE_SHARE = 8.0
_SOON = 1_999  # steps after which PyTorch's scaler doubles its scale at the next one


def run(given: Given) -> None:
    rows = given.rows
    if given.cpu:
        _let_cpu_have_float16()
    batches = _batches(given.size(32, 4), given.size(128, 8))
    steps = given.size(200, 10)
    ends = {}
    for precision in PRECISIONS:
        engine = _engine(precision)
        began = time.monotonic()
        losses = _train(engine, batches, steps)
        rows.note(f"{precision}: seconds for {steps} steps", time.monotonic() - began)
        ends[precision] = float(losses[-max(4, steps // 10) :].mean())
        rows.note(f"{precision}: first loss", float(losses[0]))
        rows.goal(f"{precision}: last losses", ends[precision], "<", float(losses[0]))
        if precision != "float32":
            apart = abs(ends[precision] / ends["float32"] - 1)
            rows.goal(f"{precision}: last losses against float32, relative", apart, "≤", RATIO)
        if precision == "float16":
            _check_scale(rows, engine, batches)
        engine.release()
    _check_resume(rows, batches, given.size(10, 2), is_exact=given.cpu)


def _let_cpu_have_float16() -> None:
    """Give the product a float16 on the CPU, where it has none: bfloat16 with float16's scaler."""
    whole = optimizer.precision

    def precision(dtype: torch.dtype, device: torch.device) -> optimizer.Precision:
        found = whole(dtype, device)
        if dtype != torch.float16:
            return found
        return replace(found, autocast=whole(torch.bfloat16, device).autocast)

    optimizer.precision = precision
    optimizer.precision_names = lambda _: set(PRECISIONS)


def _engine(precision: str) -> base.Engine:
    return networks.build(replace(_SPEC, precision=precision))


def _batches(count: int, size: int) -> Sequence[Batch]:
    """Return batches of images of a color per class, under noise."""
    draw = np.random.default_rng(0)
    colors = draw.integers(64, 192, (networks.CLASSES, 1, 1, 3))
    batches = []
    for _ in range(count):
        classes = draw.integers(0, networks.CLASSES, size)
        noise = draw.normal(0, 40, (size, *_SPEC.input_shape[1:], 3))
        images = np.clip(colors[classes] + noise, 0, 255).astype(np.uint8)
        targets = smooth_labels(classes, networks.CLASSES, _SMOOTHING)
        batches.append(Batch(images, targets, np.ones(size, np.float32), ("",) * size))
    return batches


def _train(
    engine: base.Engine, batches: Sequence[Batch], steps: int, share: float = 1.0
) -> Float64Array:
    """Return the loss of each step; they are fetched in the end."""
    update = base.Update(share)
    results = [
        engine.train_step(batches[step % len(batches)], _RATE, update) for step in range(steps)
    ]
    return np.array([result.fetch()[0] for result in results])


def _check_scale(rows: Rows, engine: base.Engine, batches: Sequence[Batch]) -> None:
    """The scale of the loss falls where gradients overflow, and rises after 2,000 steps."""
    state = engine.state()
    rows.note("float16: scale of the loss in the end", float(state[base.LOSS_SCALE]))
    state[base.LOSS_SCALE] = np.array(_HUGE_SCALE)
    engine.load_state(state)
    steps = 3
    _train(engine, batches, steps, _HUGE_SHARE)
    after = engine.state()
    fallen = float(np.log2(_HUGE_SCALE / float(after[base.LOSS_SCALE])))
    rows.goal(f"float16: halvings of a scale of 2^127 in {steps} steps", fallen, "≥", 1)
    weights = [value for name, value in after.items() if name.startswith(base.WEIGHT_PREFIX)]
    is_finite = all(bool(np.isfinite(value).all()) for value in weights)
    rows.expect("float16: weights after overflows", "finite" if is_finite else "NaN", "finite")
    state |= {base.LOSS_SCALE: np.array(1024.0), base.LOSS_SCALE_AGE: np.array(_SOON)}
    engine.load_state(state)
    _train(engine, batches, 1)
    risen = float(engine.state()[base.LOSS_SCALE]) / 1024
    rows.goal("float16: factor of the scale at its 2,000th step", risen, "≥", 2)


def _check_resume(rows: Rows, batches: Sequence[Batch], steps: int, *, is_exact: bool) -> None:
    first = _engine("float32")
    _train(first, batches, steps)
    saved = first.state()
    _train(first, batches, steps)
    second = _engine("float32")
    second.load_state(saved)
    _train(second, batches, steps)
    whole, resumed = first.state(), second.state()
    rows.expect("resumed: steps", int(resumed[base.STEPS]), int(whole[base.STEPS]))
    apart = max(
        float(np.abs(whole[name] - resumed[name]).max() / max(1e-12, np.abs(whole[name]).max()))
        for name in whole
        if name.startswith(base.WEIGHT_PREFIX)
    )
    # A GPU adds up in any order; on the CPU the weights are equal bit for bit.
    bound = 0 if is_exact else 1e-2
    rows.goal("resumed: largest difference of a weight, relative", apart, "≤", bound)
