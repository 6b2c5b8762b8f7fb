"""The optimisers by the names of the built-ins, and their state as arrays with neutral names.

In: `OptimizerSpec` and the parameters that learn. Out: a `torch.optim` optimiser, and
`optimizer/<slot>/<parameter>` arrays both ways. The learning rate is set by the engine each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from image_classification.backends import nearest
from image_classification.backends.base import OPTIMIZER_PREFIX, OptimizerSpec, State
from image_classification.errors import ArtifactError, BackendError

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

_SLOTS: dict[type[torch.optim.Optimizer], frozenset[str]] = {
    torch.optim.SGD: frozenset({"momentum_buffer"}),
    torch.optim.Adam: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    torch.optim.RMSprop: frozenset({"step", "square_avg", "momentum_buffer"}),
    torch.optim.Adagrad: frozenset({"step", "sum"}),
    torch.optim.Adadelta: frozenset({"step", "square_avg", "acc_delta"}),
}


def build(spec: OptimizerSpec, parameters: Parameters) -> torch.optim.Optimizer:
    """The optimiser; weight decay is for convolution and dense weights only.

    Momentum holds gradients, not updates: it differs from MXNet's and Keras's (which fold the
    learning rate in) for the few steps after the learning rate changes.

    Raises:
        BackendError: no optimiser has that name.
    """
    if spec.name not in _MAKERS:
        raise BackendError(
            f"backend 'torch' has no optimizer {spec.name!r}{nearest(spec.name, _MAKERS)} "
            f"Optimizers: {', '.join(_MAKERS)}"
        )
    decayed = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    plain = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
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


def write_state(optimizer: torch.optim.Optimizer, parameters: Parameters, state: State) -> None:
    """The inverse of `read_state`; nothing is changed when anything is refused.

    Raises:
        ArtifactError: a slot that this optimiser does not have, or one of a parameter that does
            not learn here or has another shape.
    """
    for key, value in state.items():
        slot, name = _slot_and_name(key)
        parameter = parameters.get(name)
        fits = parameter is not None and (slot == "step" or value.shape == tuple(parameter.shape))
        if slot not in _SLOTS[type(optimizer)] or not fits:
            raise ArtifactError(
                f"{key!r} {value.shape} belongs to another optimizer or network than this "
                f"{type(optimizer).__name__}: resume with the settings of the checkpoint"
            )
    optimizer.state.clear()
    for key, value in state.items():
        slot, name = _slot_and_name(key)
        parameter = parameters[name]
        restored = torch.from_numpy(np.array(value))
        if slot != "step":  # in the parameter's memory format: fused kernels walk both in step
            restored = torch.empty_like(parameter, requires_grad=False).copy_(restored)
        elif optimizer.defaults.get("fused"):
            restored = restored.to(parameter.device)
        optimizer.state[parameter][slot] = restored


def _slot_and_name(key: str) -> tuple[str, str]:
    slot, _, name = key.removeprefix(OPTIMIZER_PREFIX).partition("/")
    return slot, name
