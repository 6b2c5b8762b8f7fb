"""The PyTorch engine: one training step, one prediction step, state in and out.

In: batches of uint8 images N·H·W·C and soft targets. Out: losses and logits, arrays under neutral
names, an ONNX file. Runs on the CUDA device of its rank, else on the CPU. On the CPU the same
seed, batches and number of threads give bit-equal weights, across a stop and a resume as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from image_classification.backends.base import (
    AVERAGE_PREFIX,
    OPTIMIZER_PREFIX,
    WEIGHT_PREFIX,
    WHOLE_UPDATE,
    Engine,
    ModelSpec,
    OptimizerSpec,
    State,
    Update,
    World,
)
from image_classification.backends.torch import model
from image_classification.backends.torch.engine import optimizer
from image_classification.backends.torch.engine.compiling import compiled
from image_classification.backends.torch.engine.precision import precision_of
from image_classification.backends.torch.engine.ranks import Ranks
from image_classification.backends.torch.engine.weights import load_weights, pretrained_state
from image_classification.backends.torch.export import export
from image_classification.data.samples import Batch, FloatArray, UInt8Array
from image_classification.errors import AlgorithmError

__all__ = ["build", "pretrained_state"]

_STEPS = OPTIMIZER_PREFIX + "steps"


def build(spec: ModelSpec, optimizer: OptimizerSpec, world: World) -> Engine:
    """A model with fresh weights and its optimiser, on this process's device.

    Joins the process group when the world has more than one rank.

    Raises:
        BackendError: the backbone or the optimiser does not exist, or timm cannot build it.
    """
    return _TorchEngine(spec, optimizer, world)


@dataclass(frozen=True)
class _Step:
    """A step whose numbers may still be on the device."""

    loss: torch.Tensor
    logits: torch.Tensor

    def fetch(self) -> tuple[float, FloatArray]:
        """Wait: (cross entropy without the head's L2 term, logits float32 (N, classes))."""
        return float(self.loss), self.logits.float().cpu().numpy()


class _TorchEngine:
    """See `backends/base.py` for the protocol."""

    def __init__(self, spec: ModelSpec, settings: OptimizerSpec, world: World) -> None:
        torch.set_num_threads(world.threads)
        self._spec, self._settings, self._rank = spec, settings, world.rank
        self._device = _device(world)
        self._ranks = Ranks(world, self._device)
        self._model = model.build(spec).to(self._device)
        # A second model, because predictions and the graph are made from the average.
        self._average = copy.deepcopy(self._model) if spec.averages_weights else None
        self._model.dropout.generator = torch.Generator(self._device)
        self._learning = {
            name: parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = optimizer.build(settings, self._learning)
        self._steps = 0
        self._is_new_update = True
        self._has_gradients = False
        self._precision = precision_of(spec.precision, self._device)
        self._features: Callable[[torch.Tensor], torch.Tensor] = self._model.features
        if spec.compiles:
            self._features = compiled(self._model.features)
        self.device = str(self._device)
        self.parameter_count = sum(p.numel() for p in self._model.parameters())
        self.trainable_parameter_count = sum(p.numel() for p in self._learning.values())

    def train_step(
        self, batch: Batch, learning_rate: float, update: Update = WHOLE_UPDATE
    ) -> _Step:
        """The gradients of one batch and, if it is the update's last, the update.

        Samples of weight 0 are left out of the forward pass, so that padding does not enter the
        BatchNorm statistics; their logits are zeros.
        """
        weights = np.asarray(batch.weights, dtype=np.float32)
        kept = np.flatnonzero(weights)
        has_samples = len(kept) > 0
        if not has_samples:
            kept = np.arange(len(weights))
        elif len(kept) == 1:  # a BatchNorm on 1×1 maps needs two values: the sample in two halves
            kept, weights = np.repeat(kept, 2), weights / np.float32(2)
        self._start_training_mode()
        logits = self._logits(self._images(batch.images, kept))
        targets = self._tensor(np.asarray(batch.targets, dtype=np.float32)[kept])
        loss = self._add_gradients(
            logits, targets, self._tensor(weights[kept]), update.share, has_samples
        )
        if update.is_last and self._has_gradients:
            self._update(learning_rate)
            self._update_average(update.average_decay)
        self._is_new_update = update.is_last
        self._steps += 1
        logits = logits.detach()
        if not np.array_equal(kept, np.arange(len(weights))):
            everyone = logits.new_zeros(len(weights), logits.shape[1])
            logits = everyone.index_copy_(0, self._tensor(kept), logits)
        return _Step(loss, logits)

    def predict_step(self, images: UInt8Array) -> FloatArray:
        """Logits, float32 (N, classes), in evaluation mode and full precision."""
        model = self._average or self._model
        model.eval()
        with torch.inference_mode():
            logits: FloatArray = model(self._images(images)).cpu().numpy()
        return logits

    def all_reduce(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Float64 (N,) values summed over the ranks."""
        summed = self._tensor(np.array(values, np.float64))
        self._ranks.sum([summed])
        return np.asarray(summed.cpu().numpy())

    def state(self) -> State:
        """Copies of the weights, the running statistics, the optimiser and the step count."""
        models = {WEIGHT_PREFIX: self._model, AVERAGE_PREFIX: self._average}
        state: State = {
            prefix + name: np.array(tensor.cpu().numpy(), order="C")
            for prefix, model in models.items()
            if model is not None
            for name, tensor in model.tensors()
        }
        state.update(optimizer.read_state(self._optimizer, self._learning))
        state.update(self._precision.state())
        state[_STEPS] = np.array(self._steps, dtype=np.int64)
        return state

    def load_state(self, state: State) -> None:
        """Take weights and, where present, the optimiser; see `load_weights` for what is refused.

        A head that is absent or of another width keeps its fresh weights. Without an optimiser
        part the optimiser and the step count start afresh.
        """
        weights = {key: value for key, value in state.items() if key.startswith(WEIGHT_PREFIX)}
        slots = {key: value for key, value in state.items() if key.startswith(OPTIMIZER_PREFIX)}
        steps = slots.pop(_STEPS, None)
        load_weights(self._model, weights, self._spec.backbone)
        self._load_average(state)
        self._precision.take_state(slots)
        if slots:
            optimizer.write_state(self._optimizer, self._learning, slots)
        else:
            self._optimizer = optimizer.build(self._settings, self._learning)
        self._steps = 0 if steps is None else int(steps)

    def export(self, path: Path, temperature: float = 1.0) -> None:
        """Write the ONNX file, checked against this model; AlgorithmError when they differ."""
        spec = self._spec
        model = self._average or self._model
        export(model, spec.input_shape, path, temperature, is_multi_label=spec.multi_label)

    def release(self) -> None:
        """Leave the process group and free the device; the engine cannot be used afterwards."""
        self._ranks.leave()
        self._model.to("meta")
        self._average = None
        self._optimizer.state.clear()
        self._learning.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _start_training_mode(self) -> None:
        if self._spec.train_only_head:
            self._model.eval()  # BatchNorms of the frozen layers keep their statistics
            self._model.dropout.train()
        else:
            self._model.train()
        mixed = np.random.SeedSequence([self._spec.seed, self._steps, self._rank])
        self._model.dropout.generator.manual_seed(int(mixed.generate_state(1)[0]))

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        with self._precision.autocast:
            with torch.set_grad_enabled(not self._spec.train_only_head):
                features = self._features(images)
            return self._model.head(self._model.dropout(features)).float()

    def _add_gradients(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        share: float,
        has_samples: bool,
    ) -> torch.Tensor:
        """Add those of one batch; the batch's weighted mean cross entropy, detached."""
        total = self._losses(logits, targets) @ weights
        everyone = weights.sum()
        loss = (total / everyone.clamp(min=torch.finfo(everyone.dtype).tiny)).detach()
        self._ranks.sum([everyone])
        objective = total / everyone.clamp(min=torch.finfo(everyone.dtype).tiny)
        if self._settings.head_l2:
            penalty = self._settings.head_l2 * self._model.head.weight.square().sum()
            objective = objective + penalty / self._ranks.size
        if self._is_new_update:
            self._optimizer.zero_grad(set_to_none=True)
            self._has_gradients = False
        # Where no rank has a sample, momentum and weight decay must not act either.
        self._has_gradients |= self._ranks.size == 1 or bool(everyone > 0)
        self._precision.backward(objective * share)
        if not self._spec.train_only_head:
            self._ranks.average(self._statistics(), has_samples)
        return loss

    def _update(self, learning_rate: float) -> None:
        """One update from the gradients of all ranks."""
        self._ranks.sum([p.grad for p in self._learning.values()])
        if self._settings.clip_gradient_norm:
            self._precision.unscale(self._optimizer)
            clip_grad_norm_(self._learning.values(), self._settings.clip_gradient_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._precision.step(self._optimizer)

    def _update_average(self, decay: float) -> None:
        if self._average is None:
            return
        pairs = zip(self._average.tensors(), self._model.tensors(), strict=True)
        for (_, average), (_, newest) in pairs:
            average.lerp_(newest, 1.0 - decay)

    def _load_average(self, state: State) -> None:
        """Take the average of a state, or start it at the model's weights."""
        if self._average is None:
            return
        for (_, average), (_, newest) in zip(
            self._average.tensors(), self._model.tensors(), strict=True
        ):
            average.copy_(newest)
        arrays = {
            WEIGHT_PREFIX + key.removeprefix(AVERAGE_PREFIX): value
            for key, value in state.items()
            if key.startswith(AVERAGE_PREFIX)
        }
        if arrays:
            load_weights(self._average, arrays, self._spec.backbone)

    def _losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Float32 (N,): cross entropy of each sample; of several labels the mean over classes."""
        if not self._spec.multi_label:
            return functional.cross_entropy(logits, targets, reduction="none")
        weights = self._spec.positive_weights
        return functional.binary_cross_entropy_with_logits(
            logits,
            targets,
            reduction="none",
            pos_weight=logits.new_tensor(weights) if weights else None,
        ).mean(dim=1)

    def _statistics(self) -> list[torch.Tensor]:
        return [tensor for name, tensor in self._model.tensors() if ".running_" in name]

    def _images(self, images: UInt8Array, kept: Any = ...) -> torch.Tensor:
        channels, height, width = self._spec.input_shape
        if images.shape[1:] != (height, width, channels):
            raise AlgorithmError(
                f"expected images (N, {height}, {width}, {channels}), received {images.shape}"
            )
        return self._tensor(images if kept is ... or len(kept) == len(images) else images[kept])

    def _tensor(self, array: Any) -> torch.Tensor:
        """On the device; on the CPU without a copy where the array allows it."""
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._device)


def _device(world: World) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False  # predictions promise 1e-4; training has bfloat16
    return torch.device("cuda", world.rank % torch.cuda.device_count())
