"""Optimizers and the precision of training steps, with their state under neutral names.

The formulas (`update_rules`) are those of `torch.optim`. The engine sets the learning rate before
each update.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from image_classification.backends import base, update_rules
from image_classification.backends.step import gpu_precisions

Parameters = Mapping[str, torch.nn.Parameter]


def build(spec: base.OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    """Return the optimizer that `spec` names; BackendError if there is none of that name."""
    update_rules.rule_of(spec, "torch")
    decayed = [p for p in parameters.values() if update_rules.is_decayed(tuple(p.shape))]
    plain = [p for p in parameters.values() if not update_rules.is_decayed(tuple(p.shape))]
    momentum = spec.momentum
    groups = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    match spec.name:
        case "sgd":
            return torch.optim.SGD(groups, momentum=momentum, fused=True)
        case "nag" | "nesterov":
            nesterov = momentum > 0  # without momentum there is nothing to look ahead with
            return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, fused=True)
        case "adam":
            return torch.optim.Adam(
                groups, betas=(spec.beta_1, spec.beta_2), eps=spec.epsilon, fused=True
            )
        case "rmsprop":
            return torch.optim.RMSprop(
                groups, alpha=spec.decay, eps=spec.epsilon, momentum=momentum
            )
        case "adagrad":
            first = spec.initial_accumulator
            return torch.optim.Adagrad(groups, initial_accumulator_value=first, eps=spec.epsilon)
    return torch.optim.Adadelta(groups, rho=spec.decay, eps=spec.epsilon)


def read_state(optimizer: torch.optim.Optimizer, parameters: Parameters) -> base.State:
    """Copy all slots (momentum, moments, step count) as `optimizer/<slot>/<parameter>`."""
    return {
        f"{base.OPTIMIZER_PREFIX}{slot}/{name}": np.array(value.cpu().numpy(), order="C")
        for name, parameter in parameters.items()
        for slot, value in optimizer.state[parameter].items()
        if value is not None
    }


def write_state(
    optimizer: torch.optim.Optimizer, parameters: Parameters, slots: Mapping[str, base.State]
) -> None:
    """Replace all slots by `{parameter: {slot: array}}`, checked already."""
    optimizer.state.clear()
    for name, own in slots.items():
        parameter = parameters[name]
        for slot, value in own.items():
            restored = torch.from_numpy(np.array(value))
            if slot != "step":  # fused kernels need the parameter's memory format
                restored = torch.empty_like(parameter, requires_grad=False).copy_(restored)
            elif optimizer.defaults.get("fused"):
                restored = restored.to(parameter.device)
            optimizer.state[parameter][slot] = restored


@dataclass(frozen=True)
class Precision:
    """The number format of training steps.

    Weights, statistics, optimizer and predictions stay float32: autocast computes only convolutions
    and products in the short format. float16 has few exponents: the scaler scales its loss so that
    small gradients do not vanish, and leaves out updates whose gradients overflow.

    Attributes:
        dtype: torch.float32, torch.bfloat16 or torch.float16.
        autocast: context of the forward pass.
        scaler: of the loss; it does nothing unless the dtype is float16.
    """

    dtype: torch.dtype
    autocast: torch.autocast
    scaler: torch.amp.GradScaler

    def state(self) -> base.State:
        """Return the loss scale and its age in steps; {} unless the dtype is float16."""
        if not self.scaler.is_enabled():
            return {}
        state = self.scaler.state_dict()
        return {
            base.LOSS_SCALE: np.array(state["scale"], np.float64),
            base.LOSS_SCALE_AGE: np.array(state["_growth_tracker"], np.int64),
        }

    def load(self, state: base.State) -> None:
        """Continue with the loss scale of an engine's state, if it has one."""
        scale, age = state.get(base.LOSS_SCALE), state.get(base.LOSS_SCALE_AGE)
        if self.scaler.is_enabled() and scale is not None and age is not None:
            saved = {"scale": float(scale), "_growth_tracker": int(age)}
            self.scaler.load_state_dict(self.scaler.state_dict() | saved)


def precision(dtype: torch.dtype, device: torch.device) -> Precision:
    """Return the precision of a dtype on a device."""
    is_short = dtype != torch.float32
    short = dtype if is_short else torch.bfloat16
    return Precision(
        dtype,
        torch.autocast(device.type, short, enabled=is_short),
        torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
    )


def precision_names(device: torch.device) -> set[str]:
    """Return the names of the precisions that PyTorch has on a device.

    Not those that a GPU emulates: cuDNN has no bfloat16 convolution below compute capability 8.0.
    """
    if device.type == "cpu":
        return {"float32", "bfloat16"}
    return gpu_precisions(torch.cuda.get_device_capability(device))
