"""Metrics as objects: what is logged, the regular expression that scrapes it, its direction.

The lines are those of the built-ins, character by character: MXNet's `Module.fit` lines with six
decimals, Keras' one line per epoch. No number is ever written with an exponent, because the
published expressions have no `e`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A scraped number.

    Attributes:
        name: as in MetricDefinitions.
        line: the log line, or the part of it, with `{value}` where the number stands.
        regex: finds it in a log line; group 1 is the value.
        direction: what a tuning job should do with it.
    """

    name: str
    line: str
    regex: str
    direction: Literal["Maximize", "Minimize"] = "Maximize"


_NUMBER = r"([0-9\.]+)"


def _mxnet(name: str, shown: str, pattern: str) -> Metric:
    return Metric(name, f"Epoch[0] {shown}={{value}}", rf"Epoch\[\d+\] {pattern}={_NUMBER}")


def _keras(
    name: str, shown: str, direction: Literal["Maximize", "Minimize"] = "Maximize"
) -> Metric:
    return Metric(name, f"- {shown}: {{value}}", f"- {shown}: {_NUMBER}", direction)


MXNET_METRICS = (
    _mxnet("train:accuracy", "Train-accuracy", "Train-accuracy"),
    _mxnet("validation:accuracy", "Validation-accuracy", "Validation-accuracy"),
    _mxnet("train:top_k_accuracy", "Train-top_k_accuracy_5", r"Train-top_k_accuracy_\d+"),
    _mxnet(
        "validation:top_k_accuracy", "Validation-top_k_accuracy_5", r"Validation-top_k_accuracy_\d+"
    ),
)

_KERAS_SCORES = ("accuracy", "top_5_accuracy", "precision", "recall", "auc", "prc")

TENSORFLOW_METRICS = (
    *(_keras(f"train_{name}", name) for name in _KERAS_SCORES),
    *(_keras(f"val_{name}", f"val_{name}") for name in _KERAS_SCORES),
    *(_keras(f"test_{name}", f"Test {name}") for name in _KERAS_SCORES),
    _keras("train_loss", "loss", "Minimize"),
    _keras("val_loss", "val_loss", "Minimize"),
    _keras("test_loss", "Test loss", "Minimize"),
    _keras("num_params", "Number of parameters", "Minimize"),
    _keras("num_trainable_params", "Number of trainable parameters", "Minimize"),
    _keras("num_non_trainable_params", "Number of non-trainable parameters", "Minimize"),
    _keras("train_duration", "Total training duration", "Minimize"),
    _keras("train_epoch_duration", "Average training duration per epoch", "Minimize"),
    _keras("test_evaluation_latency", "Test evaluation latency", "Minimize"),
    _keras("test_latency_per_sample", "Average test latency per sample", "Minimize"),
    _keras("test_throughput", "Average test throughput"),
    # What the tuning guide and the published model specifications call val_accuracy.
    *(
        Metric(name, "- val_accuracy: {value}", f"val_accuracy: {_NUMBER}")
        for name in ("validation:accuracy", "tflow-ic:val-accuracy")
    ),
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


def keras_model_lines(parameters: int, trainable: int) -> list[str]:
    """The lines about the size of the model."""
    return [
        f"- Number of parameters: {parameters}",
        f"- Number of trainable parameters: {trainable}",
        f"- Number of non-trainable parameters: {parameters - trainable}",
    ]


def keras_duration_lines(seconds: Sequence[float]) -> list[str]:
    """The lines about the time of training, from the seconds of each epoch."""
    total = sum(seconds)
    return [
        f"- Total training duration: {total:.4f}",
        f"- Average training duration per epoch: {total / max(len(seconds), 1):.4f}",
    ]


def keras_latency_lines(samples: int, seconds: float) -> list[str]:
    """The lines about the speed of the evaluation on the channel test."""
    return [
        f"- Test evaluation latency: {seconds:.4f}",
        f"- Average test latency per sample: {seconds / max(samples, 1):.6f}",
        f"- Average test throughput: {samples / max(seconds, 1e-9):.4f}",
    ]


def _keras_name(name: str) -> str:
    """MXNet says top_k_accuracy_5, Keras top_5_accuracy."""
    k = name.removeprefix("top_k_accuracy_")
    return name if k == name else f"top_{k}_accuracy"
