"""The number format of a training step: float32, bfloat16, or float16 with a scaled loss.

Weights, statistics, optimizer and predictions stay float32: autocast computes convolutions and
products in the short format alone. float16 has few exponents: its loss is scaled so that small
gradients do not vanish, and a step whose gradients overflow is left out.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from image_classification.backends.base import OPTIMIZER_PREFIX, ModelSpec, State
from image_classification.backends.step import StepSamples
from image_classification.backends.torch.model import Classifier, load_weights
from image_classification.errors import BackendError
from image_classification.samples import FloatArray


@dataclass(frozen=True)
class Step:
    """A step whose numbers may still be on the device."""

    loss: torch.Tensor
    logits: torch.Tensor
    samples: StepSamples

    def fetch(self) -> tuple[float, FloatArray]:
        """Wait: (cross entropy without the head's L2 term, logits float32 (N, classes))."""
        return float(self.loss), self.samples.scattered(self.logits.float().cpu().numpy())


def sample_losses(logits: torch.Tensor, targets: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Float32 (N,): cross entropy; of several labels the mean over the classes.

    Args:
        logits: float32 (N, classes).
        targets: float32 (N, classes), each row adding to 1 unless there may be several classes.
        spec: of the model: `multi_label` and `positive_weights`.
    """
    if not spec.multi_label:
        return functional.cross_entropy(logits, targets, reduction="none")
    weights = spec.positive_weights
    return functional.binary_cross_entropy_with_logits(
        logits,
        targets,
        reduction="none",
        pos_weight=logits.new_tensor(weights) if weights else None,
    ).mean(dim=1)


_CPU_ALLOCATOR = ("DefaultCPUAllocator", "not enough memory")  # a RuntimeError without a type


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """While the block runs, PyTorch's errors about memory become a MemoryError.

    Raises:
        MemoryError: the device's memory or the host's does not hold what the block needs.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"on {device}: {_first_sentences(error)}") from error
    except RuntimeError as error:
        if not any(text in str(error) for text in _CPU_ALLOCATOR):
            raise
        raise MemoryError(f"on {device}: {_first_sentences(error)}") from error


def _first_sentences(error: Exception) -> str:
    """What was asked for and what was there, without advice about PyTorch's own settings."""
    return ". ".join(str(error).splitlines()[0].split(". ")[:3])


class AveragedModel:
    """A model and its average: a second model, because predictions and the graph are made from it.

    Args:
        newest: the model that learns.
    """

    def __init__(self, newest: Classifier) -> None:
        self.model = copy.deepcopy(newest)
        self._newest = newest

    def update(self, decay: float) -> None:
        """average = decay · average + (1 − decay) · weights; decay 0 starts it at the weights."""
        pairs = zip(self.model.tensors(), self._newest.tensors(), strict=True)
        for (_, average), (_, newest) in pairs:
            average.lerp_(newest, 1.0 - decay)

    def load(self, arrays: State) -> None:
        """Start the average at the model's weights, with these in their place."""
        self.update(0.0)
        load_weights(self.model, arrays)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled at its first call.

    Raises (when called):
        BackendError: the machine has no compiler, or the compiler cannot translate the function.
    """
    faster = torch.compile(function)

    def call(*arguments: Any) -> Any:
        try:
            return faster(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()
            raise BackendError(
                f"compile=on: PyTorch could not compile the network ({' '.join(reason)[:300]}); "
                "install a C++ compiler, or set compile=off"
            ) from error

    return call


_SCALE = OPTIMIZER_PREFIX + "loss_scale"
_AGE = OPTIMIZER_PREFIX + "loss_scale_age"

_logger = logging.getLogger(__name__)


class Precision:
    """Autocast and, for float16, the scaler of the loss.

    Args:
        device: of the engine.
        dtype: torch.float32, torch.bfloat16 or torch.float16.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        is_short = dtype != torch.float32
        short = dtype if is_short else torch.bfloat16
        self.autocast = torch.autocast(device.type, short, enabled=is_short)
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def backward(self, objective: torch.Tensor) -> None:
        """Add the gradients of a scalar, scaled, to the parameters'."""
        self._scaler.scale(objective).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradients those of the unscaled loss; once before `step`."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters, unless gradients overflowed; then adapt the scale."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def state(self) -> State:
        """The loss scale and for how many steps it has held; nothing but for float16."""
        if not self._scaler.is_enabled():
            return {}
        state = self._scaler.state_dict()
        return {
            _SCALE: np.array(state["scale"], np.float64),
            _AGE: np.array(state["_growth_tracker"], np.int64),
        }

    def load(self, state: State) -> None:
        """Go on with the scale of an engine's state, where it has one."""
        scale, age = state.get(_SCALE), state.get(_AGE)
        if self._scaler.is_enabled() and scale is not None and age is not None:
            state = self._scaler.state_dict()
            self._scaler.load_state_dict(
                state | {"scale": float(scale), "_growth_tracker": int(age)}
            )


def precision_of(name: str, device: torch.device) -> Precision:
    """The precision that was asked for; float32 with a warning where the device has not got it.

    Args:
        name: "auto" (bfloat16 on GPUs that have it, else float32), "float32", "bfloat16" or
            "float16".
        device: of the engine.
    """
    has_bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported()
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and has_bfloat16 else "float32"
    lacks = (name == "float16" and device.type == "cpu") or (
        name == "bfloat16" and not has_bfloat16
    )
    if lacks:
        _logger.warning("precision=%s: %s computes in float32 instead", name, device)
        name = "float32"
    return Precision(device, getattr(torch, name))
