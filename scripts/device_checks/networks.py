"""Networks with distinct probabilities, without pretrained weights and without training."""

from __future__ import annotations

import numpy as np

from image_classification import backends
from image_classification.backends import backbones, base
from image_classification.contract.process import framework_threads
from image_classification.images.preprocessing import Preprocessing
from image_classification.samples import Batch, FloatArray, UInt8Array
from image_classification.training.evaluation import softmax
from image_classification.training.initial_weights import HEAD_PREFIX

CLASSES = 10
_STEPS, _RATE = 4, 0.01
_SPREAD = 4.0  # standard deviation of the logits: probabilities from 0 to almost 1


def world() -> base.World:
    """Return a world of this process alone."""
    return base.World(threads=framework_threads())


def spec_of(backbone: str, most_side: int) -> base.ModelSpec:
    """Return a network of CLASSES classes at its usual size, or at `most_side` if that is less."""
    row = backbones.find(backbone, "torch")
    side, (mean, std) = min(row.input_size, most_side), row.normalization(3)
    return base.ModelSpec(backbone, CLASSES, (3, side, side), mean, std, precision="float32")


def preprocessing_of(spec: base.ModelSpec) -> Preprocessing:
    """Return the preprocessing that fits a network."""
    _, height, width = spec.input_shape
    resize = round(height * 8 / 7)
    return Preprocessing(height, width, resize=resize, mean=spec.mean, std=spec.std)


def build(spec: base.ModelSpec, optimizer: base.OptimizerSpec | None = None) -> base.Engine:
    """Return the engine of a network, on the device that the product chooses."""
    backend = backends.load("torch", framework_threads())
    return backend.build(spec, optimizer or base.OptimizerSpec(), world())


def distinct(spec: base.ModelSpec, images: UInt8Array) -> base.Engine:
    """Return an engine whose probabilities of the images differ.

    With first weights alone, all probabilities are about 1 / CLASSES, and any error hides. A few
    steps fit the statistics of the BatchNorms to the images; then the head is scaled.
    """
    engine = build(spec)
    batch = batch_of(images)
    for _ in range(_STEPS):
        engine.train_step(batch, _RATE)
    state = engine.state()
    logits = engine.predict_step(images)
    state[f"{HEAD_PREFIX}weight"] *= np.float32(_SPREAD / max(float(logits.std()), 1e-6))
    engine.load_state(state)
    return engine


def batch_of(images: UInt8Array) -> Batch:
    """Return a batch with one class after another."""
    count = len(images)
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(count) % CLASSES]
    keys = tuple(map(str, range(count)))
    return Batch(images, targets, np.ones(count, np.float32), keys)


def probabilities(engine: base.Engine, images: UInt8Array) -> FloatArray:
    """Return float32 (N, CLASSES), computed as one batch."""
    return np.asarray(softmax(engine.predict_step(images)), np.float32)


def weights_of(engine: base.Engine) -> base.State:
    """Return an engine's weights by neutral name, as safetensors can write them."""
    prefix = base.WEIGHT_PREFIX
    return {
        name.removeprefix(prefix): np.ascontiguousarray(array)
        for name, array in engine.state().items()
        if name.startswith(prefix)
    }
