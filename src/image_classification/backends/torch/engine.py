"""The PyTorch engine: one training step, one prediction step, state in and out.

In: batches of uint8 images N·H·W·C and soft targets. Out: losses and logits, arrays under neutral
names, an ONNX file. Runs on the CUDA device of its rank, else on the CPU. On the CPU the same
seed, batches and number of threads give bit-equal weights, across a stop and a resume as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils import clip_grad_norm_

from image_classification.backends.base import (
    AVERAGE_PREFIX,
    STEPS,
    WEIGHT_PREFIX,
    WHOLE_UPDATE,
    Engine,
    ModelSpec,
    OptimizerSpec,
    State,
    Update,
    World,
)
from image_classification.backends.pretrained import pretrained_state
from image_classification.backends.state import checked_state
from image_classification.backends.step import StepSamples, kept_features, step_samples
from image_classification.backends.torch import model, optimizer
from image_classification.backends.torch.export import export
from image_classification.backends.torch.ranks import Ranks, device_of
from image_classification.backends.torch.step import (
    AveragedModel,
    Step,
    compiled,
    memory_errors,
    precision_of,
    sample_losses,
)
from image_classification.samples import Batch, FloatArray, UInt8Array

__all__ = ["build", "pretrained_state"]


def build(spec: ModelSpec, optimizer: OptimizerSpec, world: World) -> Engine:
    """A model with fresh weights and its optimizer, on this process's device.

    Joins the process group when the world has more than one rank.

    Raises:
        BackendError: the backbone or the optimizer does not exist, or timm cannot build it.
        MemoryError: the model does not fit; so raise the steps of the engine.
    """
    with memory_errors(device_of(world)):
        return _TorchEngine(spec, optimizer, world)


class _TorchEngine:
    """See `backends/base.py` for the protocol."""

    def __init__(self, spec: ModelSpec, settings: OptimizerSpec, world: World) -> None:
        torch.set_num_threads(world.threads)
        self._spec, self._settings, self._rank = spec, settings, world.rank
        self._device = device_of(world)
        self._ranks = Ranks(world, self._device)
        self._model = model.build(spec).to(self._device)
        self._average = AveragedModel(self._model) if spec.averages_weights else None
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

    def train_step(self, batch: Batch, learning_rate: float, update: Update = WHOLE_UPDATE) -> Step:
        """The gradients of one batch and, if it is the update's last, the update.

        Samples of weight 0 are left out of the forward pass; their logits are zeros.
        """
        with memory_errors(self._device):
            return self._train_step(batch, learning_rate, update)

    def _train_step(self, batch: Batch, learning_rate: float, update: Update) -> Step:
        samples = step_samples(batch.weights)
        # BatchNorms keep their statistics where they are frozen, and where there is only padding.
        self._model.train(samples.has_weight and not self._spec.train_only_head)
        logits = self._logits(self._images(batch.images, samples))
        targets = self._tensor(np.asarray(batch.targets, dtype=np.float32)[samples.indices])
        loss = self._add_gradients(logits, targets, samples, update.share)
        if update.is_last and self._has_gradients:
            self._update(learning_rate)
            if self._average is not None:
                self._average.update(update.average_decay)
        self._is_new_update = update.is_last
        self._steps += 1
        return Step(loss, logits.detach(), samples)

    def predict_step(self, images: UInt8Array) -> FloatArray:
        """Logits, float32 (N, classes), in evaluation mode and full precision."""
        network = self._evaluated.eval()
        with memory_errors(self._device), torch.inference_mode():
            logits: FloatArray = network(self._images(images)).cpu().numpy()
        return logits

    def all_reduce(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Float64 (N,) values summed over the ranks."""
        summed = self._tensor(np.array(values, np.float64))
        self._ranks.sum([summed])
        return np.asarray(summed.cpu().numpy())

    def state(self) -> State:
        """Copies of the weights, the running statistics, the optimizer and the step count."""
        networks = {WEIGHT_PREFIX: self._model}
        if self._average is not None:
            networks[AVERAGE_PREFIX] = self._average.model
        state: State = {
            prefix + name: np.array(tensor.cpu().numpy(), order="C")
            for prefix, network in networks.items()
            for name, tensor in network.tensors()
        }
        state.update(optimizer.read_state(self._optimizer, self._learning))
        state.update(self._precision.state())
        state[STEPS] = np.array(self._steps, dtype=np.int64)
        return state

    def load_state(self, state: State) -> None:
        """Take weights and, where present, the optimizer; nothing changes when any is refused.

        A head that is absent or of another width keeps its fresh weights. Without an optimizer
        part the optimizer and the step count start afresh.

        Raises:
            ArtifactError: a tensor or a slot that does not fit; see `checked_state`.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in self._model.tensors()}
        checked = checked_state(state, shapes, self._learning, self._spec, self._settings)
        model.load_weights(self._model, checked.weights)
        if self._average is not None:
            self._average.load(checked.averages)
        if checked.slots:
            optimizer.write_state(self._optimizer, self._learning, checked.slots)
        else:
            self._optimizer = optimizer.build(self._settings, self._learning)
        self._precision.load(state)
        self._steps = checked.steps

    def export(self, path: Path, temperature: float = 1.0) -> None:
        """Write the ONNX file, checked against this model; AlgorithmError when they differ."""
        export(self._evaluated, self._spec, path, temperature)

    def release(self) -> None:
        """Leave the process group and free the device; the engine cannot be used afterward."""
        self._ranks.leave()
        self._model.to("meta")
        self._average = None
        self._optimizer.state.clear()
        self._learning.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _evaluated(self) -> model.Classifier:
        """The network of predictions and of the graph."""
        return self._model if self._average is None else self._average.model

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        with self._precision.autocast:
            with torch.set_grad_enabled(not self._spec.train_only_head):
                features = self._features(images)
            return self._model.head(self._dropped_out(features)).float()

    def _dropped_out(self, features: torch.Tensor) -> torch.Tensor:
        rate, seed = self._spec.dropout_rate, self._spec.seed
        samples, width = features.shape
        kept = kept_features(rate, (samples, width), seed, self._steps, self._rank)
        return features if kept is None else features * self._tensor(kept) / (1.0 - rate)

    def _add_gradients(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        samples: StepSamples,
        share: float,
    ) -> torch.Tensor:
        """Add those of one batch; the batch's weighted mean cross entropy, detached."""
        weights = self._tensor(samples.weights)
        total = sample_losses(logits, targets, self._spec) @ weights
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
        # Where no rank has a sample, momentum and weight decay must not act either. What is known
        # here is not asked of the device.
        self._has_gradients |= samples.has_weight or (self._ranks.size > 1 and bool(everyone > 0))
        self._precision.backward(objective * share)
        if not self._spec.train_only_head:
            self._ranks.average(self._statistics(), samples.has_weight)
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

    def _statistics(self) -> list[torch.Tensor]:
        return [tensor for name, tensor in self._model.tensors() if ".running_" in name]

    def _images(self, images: UInt8Array, samples: StepSamples | None = None) -> torch.Tensor:
        self._spec.check_images(images)
        if samples is None or samples.is_everyone:
            return self._tensor(images)
        return self._tensor(images[samples.indices])

    def _tensor(self, array: Any) -> torch.Tensor:
        """On the device; on the CPU without a copy where the array allows it.

        From page-locked memory a copy to a GPU is only handed over, as a step is; from other memory
        it would wait for the step that is running.
        """
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)
