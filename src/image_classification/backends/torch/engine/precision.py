"""The number format of a training step: float32, bfloat16, or float16 with a scaled loss.

Weights, statistics, optimiser and predictions stay float32: autocast computes convolutions and
products in the short format alone. float16 has few exponents: its loss is scaled so that small
gradients do not vanish, and a step whose gradients overflow is left out.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from image_classification.backends.base import OPTIMIZER_PREFIX, State

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
