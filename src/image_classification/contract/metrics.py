"""Metrics as objects: what is logged, the regular expression that scrapes it, its direction.

The lines are those of the built-ins, character by character: MXNet's `Module.fit` lines with six
decimals, Keras' one line per epoch. No number is ever written with an exponent, because the
published expressions have no `e`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A scraped number.

    Attributes:
        name: as in MetricDefinitions.
        regex: finds it in a log line; group 1 is the value.
        direction: what a tuning job should do with it.
    """

    name: str
    regex: str
    direction: Literal["Maximize", "Minimize"] = "Maximize"


_NUMBER = r"([0-9\.]+)"

MXNET_METRICS = (
    Metric("train:accuracy", rf"Epoch\[\d+\] Train-accuracy={_NUMBER}"),
    Metric("validation:accuracy", rf"Epoch\[\d+\] Validation-accuracy={_NUMBER}"),
    Metric("train:top_k_accuracy", rf"Epoch\[\d+\] Train-top_k_accuracy_\d+={_NUMBER}"),
    Metric("validation:top_k_accuracy", rf"Epoch\[\d+\] Validation-top_k_accuracy_\d+={_NUMBER}"),
)

TENSORFLOW_METRICS = (
    Metric("train_accuracy", rf"- accuracy: {_NUMBER}"),
    Metric("train_loss", rf"- loss: {_NUMBER}", "Minimize"),
    Metric("val_accuracy", rf"val_accuracy: {_NUMBER}"),
    Metric("val_loss", rf"val_loss: {_NUMBER}", "Minimize"),
    Metric("train_top_5_accuracy", rf"- top_5_accuracy: {_NUMBER}"),
    Metric("val_top_5_accuracy", rf"- val_top_5_accuracy: {_NUMBER}"),
)


def mxnet_batch_line(epoch: int, step: int, rate: float, values: Mapping[str, float]) -> str:
    """The line every 20 batches: speed in samples/s and the running training metrics."""
    tail = "".join(f"\t{name}={value:.6f}" for name, value in values.items())
    return f"Epoch[{epoch}] Batch [{step}]\tSpeed: {rate:.3f} samples/sec{tail}"


def mxnet_epoch_lines(
    epoch: int, seconds: float, train: Mapping[str, float], validation: Mapping[str, float]
) -> list[str]:
    """The lines at the end of an epoch; `loss` is not among MXNet's names and is left out."""
    lines = [f"Epoch[{epoch}] Train-{name}={v:.6f}" for name, v in train.items() if name != "loss"]
    lines.append(f"Epoch[{epoch}] Time cost={seconds:.3f}")
    lines += [
        f"Epoch[{epoch}] Validation-{name}={v:.6f}"
        for name, v in validation.items()
        if name != "loss"
    ]
    return lines


def keras_epoch_line(
    steps: int, seconds: float, train: Mapping[str, float], validation: Mapping[str, float]
) -> str:
    """Keras' line: `12/12 - 9s - loss: 0.9382 - accuracy: 0.7312 - val_loss: …`."""
    parts = [f"{_keras_name(name)}: {value:.4f}" for name, value in train.items()]
    parts += [f"val_{_keras_name(name)}: {value:.4f}" for name, value in validation.items()]
    return f"{steps}/{steps} - {seconds:.0f}s - " + " - ".join(parts)


def keras_test_lines(test: Mapping[str, float]) -> list[str]:
    """The lines about the channel test: `- Test accuracy: 0.8125`."""
    return [f"- Test {_keras_name(name)}: {value:.4f}" for name, value in test.items()]


def _keras_name(name: str) -> str:
    """MXNet says top_k_accuracy_5, Keras top_5_accuracy."""
    k = name.removeprefix("top_k_accuracy_")
    return name if k == name else f"top_{k}_accuracy"
