"""The log lines of the built-ins, and the metrics that SageMaker scrapes from them.

The lines are the built-ins' own, character by character: those of MXNet's `Module.fit` with six
decimals, and one line per epoch from Keras. No number has an exponent, because the published
regular expressions do not match an `e`.
"""

# ruff: noqa: ARG002 - a built-in's lines do not use every argument that they get

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A number that SageMaker reads from the log.

    Attributes:
        name: its name in MetricDefinitions.
        line: an example of the log line, or a part of it, with `{value}` in place of the number.
        regex: finds the number in a log line; group 1 is the value.
        direction: the goal of a tuning job.
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

Lines = Sequence[str]
Scores = Mapping[str, float]
"""Metric → value; the names are MXNet's (`top_k_accuracy_5`)."""


class LogLines:
    """What a built-in logs about its training; this base class logs nothing."""

    def of_batch(self, epoch: int, step: int, rate: float, train: Scores) -> Lines:
        """Return the lines after every 20th batch; `rate` is in samples per second."""
        return ()

    def of_epoch(
        self, epoch: int, steps: int, seconds: float, train: Scores, validation: Scores
    ) -> Lines:
        """Return the lines at the end of `epoch`, which is 0 for the first."""
        return ()

    def of_best(self, accuracy: float) -> Lines:
        """Return the lines about a new best epoch."""
        return ()

    def of_model(self, parameters: int, trainable: int) -> Lines:
        """Return the lines about the size of the model."""
        return ()

    def of_durations(self, seconds: Sequence[float]) -> Lines:
        """Return the lines after training, from the seconds of each epoch."""
        return ()

    def of_test(self, test: Scores, samples: int, seconds: float) -> Lines:
        """Return the lines about the test channel and the speed of its evaluation."""
        return ()


class MXNetLines(LogLines):
    """The lines of MXNet's `Module.fit`; `loss` is not one of its metrics."""

    def of_batch(self, epoch: int, step: int, rate: float, train: Scores) -> Lines:
        tail = "".join(f"\t{name}={value:.6f}" for name, value in _without_loss(train))
        return (f"Epoch[{epoch}] Batch [{step}]\tSpeed: {rate:.3f} samples/sec{tail}",)

    def of_epoch(
        self, epoch: int, steps: int, seconds: float, train: Scores, validation: Scores
    ) -> Lines:
        return (
            *(f"Epoch[{epoch}] Train-{name}={v:.6f}" for name, v in _without_loss(train)),
            f"Epoch[{epoch}] Time cost={seconds:.3f}",
            *(f"Epoch[{epoch}] Validation-{name}={v:.6f}" for name, v in _without_loss(validation)),
        )

    def of_best(self, accuracy: float) -> Lines:
        return (f"Storing the best model with validation accuracy: {accuracy:.6f}",)


class KerasLines(LogLines):
    """The lines of Keras: `12/12 - 9s - loss: 0.9382 - accuracy: 0.7312 - val_loss: …`."""

    def of_epoch(
        self, epoch: int, steps: int, seconds: float, train: Scores, validation: Scores
    ) -> Lines:
        parts = [f"{_keras_name(name)}: {value:.4f}" for name, value in train.items()]
        parts += [f"val_{_keras_name(name)}: {value:.4f}" for name, value in validation.items()]
        return (f"{steps}/{steps} - {seconds:.0f}s - " + " - ".join(parts),)

    def of_model(self, parameters: int, trainable: int) -> Lines:
        return (
            f"- Number of parameters: {parameters}",
            f"- Number of trainable parameters: {trainable}",
            f"- Number of non-trainable parameters: {parameters - trainable}",
        )

    def of_durations(self, seconds: Sequence[float]) -> Lines:
        total = sum(seconds)
        return (
            f"- Total training duration: {total:.4f}",
            f"- Average training duration per epoch: {total / max(len(seconds), 1):.4f}",
        )

    def of_test(self, test: Scores, samples: int, seconds: float) -> Lines:
        return (
            *(f"- Test {_keras_name(name)}: {value:.4f}" for name, value in test.items()),
            f"- Test evaluation latency: {seconds:.4f}",
            f"- Average test latency per sample: {seconds / max(samples, 1):.6f}",
            f"- Average test throughput: {samples / max(seconds, 1e-9):.4f}",
        )


def _without_loss(values: Scores) -> list[tuple[str, float]]:
    return [(name, value) for name, value in values.items() if name != "loss"]


def _keras_name(name: str) -> str:
    """Return Keras' name for a metric: `top_5_accuracy` for `top_k_accuracy_5`."""
    k = name.removeprefix("top_k_accuracy_")
    return name if k == name else f"top_{k}_accuracy"
