"""The usual loop in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from image_classification.backends.base import ModelSpec
from image_classification.backends.torch import model
from image_classification.samples import Batch


def build(spec: ModelSpec, batch: Batch, rate: float, momentum: float) -> Callable[[], float]:
    """Return a step on the same batch each time; it returns the loss."""
    classifier = model.build(spec).train()
    optimizer = torch.optim.SGD(classifier.parameters(), rate, momentum)

    def step() -> float:
        logits = classifier(torch.from_numpy(batch.images))
        loss = functional.cross_entropy(logits, torch.from_numpy(batch.targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    return step
