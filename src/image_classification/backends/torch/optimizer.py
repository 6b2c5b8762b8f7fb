"""The optimizers by the names of the built-ins, and their state as arrays with neutral names.

In: `OptimizerSpec` and the parameters that learn. Out: a `torch.optim` optimizer, and
`optimizer/<slot>/<parameter>` arrays both ways. The learning rate is set by the engine each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from image_classification.backends.base import OPTIMIZER_PREFIX, OptimizerSpec, State
from image_classification.backends.update_rules import is_decayed, rule_of

Parameters = Mapping[str, torch.nn.Parameter]


def _sgd(spec: OptimizerSpec, groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=spec.momentum, fused=True)


def _nag(spec: OptimizerSpec, groups: Any) -> torch.optim.Optimizer:
    nesterov = spec.momentum > 0  # without momentum there is nothing to look ahead with
    return torch.optim.SGD(groups, momentum=spec.momentum, nesterov=nesterov, fused=True)


def _adam(spec: OptimizerSpec, groups: Any) -> torch.optim.Optimizer:
    betas = (spec.beta_1, spec.beta_2)
    return torch.optim.Adam(groups, betas=betas, eps=spec.epsilon, fused=True)


def _rmsprop(spec: OptimizerSpec, groups: Any) -> torch.optim.Optimizer:
    momentum = spec.momentum
    return torch.optim.RMSprop(groups, alpha=spec.decay, eps=spec.epsilon, momentum=momentum)


def _adagrad(spec: OptimizerSpec, groups: Any) -> torch.optim.Optimizer:
    start = spec.initial_accumulator
    return torch.optim.Adagrad(groups, initial_accumulator_value=start, eps=spec.epsilon)


def _adadelta(spec: OptimizerSpec, groups: Any) -> torch.optim.Optimizer:
    return torch.optim.Adadelta(groups, rho=spec.decay, eps=spec.epsilon)


_MAKERS: dict[str, Callable[[OptimizerSpec, Any], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "nag": _nag,
    "nesterov": _nag,
    "adam": _adam,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "adadelta": _adadelta,
}


def build(spec: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    """The optimizer; its formula is in `backends/update_rules`.

    Raises:
        BackendError: no optimizer has that name.
    """
    rule_of(spec, "torch")
    decayed = [p for p in parameters.values() if is_decayed(tuple(p.shape))]
    plain = [p for p in parameters.values() if not is_decayed(tuple(p.shape))]
    groups = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return _MAKERS[spec.name](spec, groups)


def read_state(optimizer: torch.optim.Optimizer, parameters: Parameters) -> State:
    """A copy of every slot (momentum, moments, step count) as `optimizer/<slot>/<parameter>`."""
    return {
        f"{OPTIMIZER_PREFIX}{slot}/{name}": np.array(value.cpu().numpy(), order="C")
        for name, parameter in parameters.items()
        for slot, value in optimizer.state[parameter].items()
        if value is not None
    }


def write_state(
    optimizer: torch.optim.Optimizer, parameters: Parameters, slots: Mapping[str, State]
) -> None:
    """The inverse of `read_state`: `slots` of each parameter by name, checked already."""
    optimizer.state.clear()
    for name, own in slots.items():
        parameter = parameters[name]
        for slot, value in own.items():
            restored = torch.from_numpy(np.array(value))
            if slot != "step":  # in the parameter's memory format: fused kernels walk both in step
                restored = torch.empty_like(parameter, requires_grad=False).copy_(restored)
            elif optimizer.defaults.get("fused"):
                restored = restored.to(parameter.device)
            optimizer.state[parameter][slot] = restored
