"""The PyTorch engine: training steps, predictions, state and export.

On a GPU it hands steps over and does not wait for them; reading a result waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from image_classification.backends import base, step
from image_classification.backends.pretrained import pretrained_state
from image_classification.backends.state import checked_state, joined_state
from image_classification.backends.torch import model, optimizer
from image_classification.backends.torch.export import export
from image_classification.backends.torch.ranks import Ranks, device_of
from image_classification.samples import Array, Batch, Float64Array, FloatArray, UInt8Array

__all__ = ["build", "pretrained_state"]

# RuntimeErrors without a type: of the CPU's allocator, and of CUDA, cuBLAS, cuDNN and NCCL.
_MEMORY_MESSAGES = (
    *("DefaultCPUAllocator", "not enough memory"),
    *("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED"),
)


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Turn PyTorch's errors about memory into a MemoryError."""
    try:
        yield
    except RuntimeError as error:  # OutOfMemoryError is one
        is_memory = isinstance(error, torch.OutOfMemoryError)
        if not is_memory and not any(text in str(error) for text in _MEMORY_MESSAGES):
            raise
        # How much was asked for and how much there was, without advice about PyTorch's settings.
        sentences = str(error).splitlines()[0].split(". ")[:3]
        raise MemoryError(f"on {device}: {'. '.join(sentences)}") from error


def build(spec: base.ModelSpec, optimizer: base.OptimizerSpec, world: base.World) -> base.Engine:
    """See `base.EngineModule`."""
    with memory_errors(device_of(world)):
        return _TorchEngine(spec, optimizer, world)


_MOST_ON_ONE_THREAD = 1 << 23  # products: 32 features of 1,280 for 200 classes; about 1 ms


@dataclass(frozen=True)
class _Step:
    loss: torch.Tensor
    logits: torch.Tensor
    samples: step.StepSamples

    def fetch(self) -> tuple[float, FloatArray]:
        return float(self.loss), self.samples.scattered(self.logits.float().cpu().numpy())


class _TorchEngine:
    """See `base.Engine`."""

    def __init__(
        self, spec: base.ModelSpec, settings: base.OptimizerSpec, world: base.World
    ) -> None:
        torch.set_num_threads(world.threads)
        self._spec, self._settings, self._world = spec, settings, world
        self._device = device_of(world)
        self._ranks = Ranks(world, self._device) if world.size > 1 else None
        self._model = model.build(spec).to(self._device)
        self._average = model.AveragedModel(self._model) if spec.averages_weights else None
        self._learning = {
            name: parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = optimizer.build(settings, self._learning)
        has = optimizer.precision_names(self._device)
        precision = step.precision_of(spec.precision, has, "PyTorch", self._device)
        self._precision = optimizer.precision(getattr(torch, precision), self._device)
        positive = np.array(spec.positive_weights, np.float32)
        self._positive_weights = self._tensor(positive) if spec.positive_weights else None
        self._logit_bias = self._tensor(np.array(spec.logit_bias or [0.0], np.float32))
        self._features = self._model.features
        if spec.compiles:
            self._features = model.compiled(self._model.features)
        self._steps = 0
        self._is_new_update = True
        self._has_gradients = False
        self.feature_width = self._model.head.in_features
        self.device = str(self._device)
        self.parameter_count = sum(p.numel() for p in self._model.parameters())
        self.trainable_parameter_count = sum(p.numel() for p in self._learning.values())

    def train_step(
        self, batch: Batch, learning_rate: float, update: base.Update = base.WHOLE_UPDATE
    ) -> _Step:
        with memory_errors(self._device):
            has_features = step.has_features(batch.images, self._spec)
            self._use_threads(batch.images, has_features=has_features)
            samples = step.StepSamples.of(batch.weights)
            # BatchNorms keep their statistics if they are frozen or see only padding.
            self._set_mode(is_training=samples.has_weight and not self._spec.train_only_head)
            logits = self._logits(self._tensor(samples.picked(batch.images)), has_features)
            targets = self._tensor(samples.picked(np.asarray(batch.targets, np.float32)))
            biased = logits + self._logit_bias if self._spec.logit_bias else logits
            losses = _sample_losses(biased, targets, self._spec, self._positive_weights)
            loss = self._add_gradients(losses, samples, update.share)
            if update.is_last and self._has_gradients:
                self._update(learning_rate)
                if self._average is not None:
                    self._average.update(update.average_decay)
            self._is_new_update = update.is_last
            self._steps += 1
            return _Step(loss, logits.detach(), samples)

    def predict_step(self, images: Array) -> FloatArray:
        network = self._evaluated.eval()
        has_features = step.has_features(images, self._spec)
        compute = network.head if has_features else network
        self._use_threads(images, has_features=has_features)
        with memory_errors(self._device), torch.inference_mode():
            logits: FloatArray = compute(self._tensor(images)).cpu().numpy()
        return logits

    def features_step(self, images: UInt8Array) -> FloatArray:
        step.check_images(images, self._spec)
        self._use_threads(images, has_features=False)
        network = self._evaluated.eval()
        with memory_errors(self._device), torch.inference_mode():
            features: FloatArray = network.features(self._tensor(images)).cpu().numpy()
        return features

    def all_reduce(self, values: Float64Array) -> Float64Array:
        summed = self._tensor(np.array(values, np.float64))
        if self._ranks is not None:
            self._ranks.sum([summed])
        return np.asarray(summed.cpu().numpy())

    def state(self) -> base.State:
        average = None if self._average is None else self._average.model.arrays()
        slots = optimizer.read_state(self._optimizer, self._learning)
        slots.update(self._precision.state())
        return joined_state(self._model.arrays(), average, slots, self._steps)

    def load_state(self, state: base.State) -> None:
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
        export(self._evaluated, self._spec, path, temperature)

    def release(self) -> None:
        if self._ranks is not None:
            self._ranks.leave()
        self._model.to("meta")
        self._average = None
        self._optimizer.state.clear()
        self._learning.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _use_threads(self, images: Array, *, has_features: bool) -> None:
        """Compute the head of few features on one thread: waiting for others takes longer."""
        is_small = has_features and images.size * self._spec.classes <= _MOST_ON_ONE_THREAD
        wanted = 1 if is_small else self._world.threads
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)

    def _set_mode(self, *, is_training: bool) -> None:
        if self._model.training != is_training:  # setting it takes longer than a step of a head
            self._model.train(is_training)

    @property
    def _evaluated(self) -> model.Classifier:
        """The network of predictions and of the graph."""
        return self._model if self._average is None else self._average.model

    def _logits(self, images: torch.Tensor, has_features: bool) -> torch.Tensor:
        spec = self._spec
        with self._precision.autocast:
            with torch.set_grad_enabled(not spec.train_only_head):
                features = images if has_features else self._features(images)
            kept = step.kept_features(spec, features.shape, self._steps, self._world.rank)
            if kept is not None:
                features = features * self._tensor(kept) / (1.0 - spec.dropout_rate)
            return self._model.head(features).float()

    def _add_gradients(
        self, losses: torch.Tensor, samples: step.StepSamples, share: float
    ) -> torch.Tensor:
        """Add the gradients of one batch; return its weighted mean loss, detached."""
        weights = self._tensor(samples.weights)
        total = losses @ weights
        everyone = weights.sum()
        tiny = torch.finfo(everyone.dtype).tiny
        loss = (total / everyone.clamp(min=tiny)).detach()
        if self._ranks is not None:
            self._ranks.sum([everyone])
        objective = total / everyone.clamp(min=tiny)
        if self._settings.head_l2:
            penalty = self._settings.head_l2 * self._model.head.weight.square().sum()
            objective = objective + penalty / self._world.size
        if self._is_new_update:
            self._optimizer.zero_grad(set_to_none=True)
            self._has_gradients = False
        # If no rank has a sample, momentum and weight decay must not act either. Asking the device
        # costs a wait, so it is asked only what is not known here.
        self._has_gradients |= samples.has_weight or (
            self._ranks is not None and bool(everyone > 0)
        )
        self._precision.scaler.scale(objective * share).backward()
        if self._ranks is not None and not self._spec.train_only_head:
            statistics = [t for name, t in self._model.tensors() if ".running_" in name]
            self._ranks.average(statistics, samples.has_weight)
        return loss

    def _update(self, learning_rate: float) -> None:
        """Update the weights from the gradients of all ranks, unless float16 overflowed."""
        if self._ranks is not None:
            self._ranks.sum([p.grad for p in self._learning.values()])
        scaler = self._precision.scaler
        if self._settings.clip_gradient_norm:
            scaler.unscale_(self._optimizer)
            clip_grad_norm_(self._learning.values(), self._settings.clip_gradient_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        scaler.step(self._optimizer)
        scaler.update()

    def _tensor(self, array: Array) -> torch.Tensor:
        """Move an array to the device; on the CPU without a copy if the array allows it.

        A copy from page-locked memory to a GPU is queued like a step; a copy from other memory
        would wait for the running step.
        """
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _sample_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    spec: base.ModelSpec,
    positive_weights: torch.Tensor | None,
) -> torch.Tensor:
    """Return float32 (N,): cross-entropy, with multi_label its mean over the classes."""
    if not spec.multi_label:
        return functional.cross_entropy(logits, targets, reduction="none")
    return functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="none", pos_weight=positive_weights
    ).mean(dim=1)
