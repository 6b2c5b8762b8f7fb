"""Which built-in a job is written for, and everything that follows from it.

An `Interface` bundles the declarations of one built-in. It is recognized from the channels,
unless the hyperparameter `interface` names it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from image_classification.contract import environment, metrics
from image_classification.contract import mxnet as mxnet_interface
from image_classification.contract import tensorflow as tensorflow_interface
from image_classification.contract.channels import Channel
from image_classification.contract.hyperparameter import Hyperparameter, Value, parse_all, parse_one
from image_classification.contract.metrics import LogLines
from image_classification.contract.presets import added_by
from image_classification.contract.shared import BACKEND, INTERFACE, PRESET
from image_classification.errors import ArtifactError, ChannelError, HyperparameterError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnswerForm:
    """How a built-in's server writes the probabilities of one image, when labels are not asked for.

    Attributes:
        json_key: the name of the array in application/json; None: the bare array.
        json_lines_key: its name in application/jsonlines.
    """

    json_key: str | None
    json_lines_key: str


@dataclass(frozen=True)
class Interface:
    """Everything that distinguishes one built-in from the other.

    Attributes:
        name: mxnet or tensorflow, as checkpoints, artifacts and messages name it.
        training_channel: the name of its channel of training images.
        channels, hyperparameters, metrics: its declared tables.
        tuning_ranges: the hyperparameters that a tuning job may vary → the range that the built-in
            recommends; None: all values of a categorical.
        lines: its log lines.
        answers: the form of its server's answers.
    """

    name: str
    training_channel: str
    channels: tuple[Channel, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    metrics: tuple[metrics.Metric, ...]
    tuning_ranges: Mapping[str, tuple[float, float] | None]
    lines: LogLines
    answers: AnswerForm

    def parse(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Typed hyperparameters; names of the other interface get a message that says so.

        A job that names no backend gets that of its image.
        """
        other = next(entry for entry in INTERFACES.values() if entry is not self)
        remark = (
            f"it belongs to the {other.name} interface (channel {other.training_channel}), "
            f"and this job is read as {self.name}"
        )
        elsewhere = dict.fromkeys(_names(other), remark)
        added = self.added_by_preset(given)
        if given.get(PRESET.name):
            shown = ", ".join(f"{name}={value}" for name, value in added.items())
            nothing = "nothing: the job sets all of it"
            _logger.info("preset=%s sets %s", given[PRESET.name], shown or nothing)
        values = parse_all(self.hyperparameters, dict(given) | added, elsewhere)
        self._log_without_effect(values)
        values[BACKEND.name] = values[BACKEND.name] or environment.BACKEND.read()
        return values

    def _log_without_effect(self, values: Mapping[str, Value]) -> None:
        """Say what was changed from its default and is not read by the job's optimizer."""
        chosen = values["optimizer"]
        for entry in self.hyperparameters:
            value = values[entry.name]
            if entry.optimizers and chosen not in entry.optimizers and value != entry.default:
                readers = ", ".join(entry.optimizers)
                _logger.info(
                    "%s=%s is without effect with optimizer=%s: it acts with %s",
                    *(entry.name, value, chosen, readers),
                )

    def added_by_preset(self, given: Mapping[str, object]) -> dict[str, str]:
        """Hyperparameter → value as text: what the preset of a job adds to what it gives."""
        preset = _preset(given)
        return added_by(preset, self.name, self._own(given)) if preset else {}

    def _own(self, given: Mapping[str, object]) -> dict[str, Value]:
        """What a job gives, typed, by the interface's own names; None where it cannot be read."""
        own: dict[str, Value] = {}
        for entry in self.hyperparameters:
            for name in (entry.name, *entry.aliases):
                if name in given:
                    own[entry.name] = _readable(entry, given[name])
        return own


INTERFACES = {
    "mxnet": Interface(
        "mxnet",
        "train",
        mxnet_interface.CHANNELS,
        mxnet_interface.HYPERPARAMETERS,
        metrics.MXNET_METRICS,
        mxnet_interface.TUNING_RANGES,
        metrics.MXNetLines(),
        AnswerForm(json_key=None, json_lines_key="prediction"),
    ),
    "tensorflow": Interface(
        "tensorflow",
        "training",
        tensorflow_interface.CHANNELS,
        tensorflow_interface.HYPERPARAMETERS,
        metrics.TENSORFLOW_METRICS,
        tensorflow_interface.TUNING_RANGES,
        metrics.KerasLines(),
        AnswerForm(json_key="probabilities", json_lines_key="probabilities"),
    ),
}


def interface_of(name: str) -> Interface:
    """Return the interface that an artifact's manifest names; ArtifactError if there is none."""
    if name not in INTERFACES:
        raise ArtifactError(
            f"the artifact's interface is {name!r}; expected {' or '.join(INTERFACES)}"
        )
    return INTERFACES[name]


def recognize(channels: Iterable[str], hyperparameters: Mapping[str, object]) -> Interface:
    """The interface of a job from its channel names, or from the hyperparameter `interface`.

    Raises:
        ChannelError: no training channel, or those of both interfaces.
        HyperparameterError: `interface` names none, or contradicts the channels.
    """
    names = set(channels)
    found = [entry for entry in INTERFACES.values() if entry.training_channel in names]
    wanted = parse_one(INTERFACE, hyperparameters.get("interface"))
    if len(found) > 1:
        raise ChannelError(
            "the job has both channels train and training: train belongs to the mxnet interface, "
            "training to the tensorflow interface; keep one of them"
        )
    if not found:
        raise ChannelError(
            "Missing required channel: train (mxnet interface) or training (tensorflow interface); "
            f"got {sorted(names) or 'no channel'}"
        )
    if wanted and found[0].name != wanted:
        raise HyperparameterError(
            f"interface={wanted!r} needs the channel {INTERFACES[str(wanted)].training_channel}, "
            f"but the job has {found[0].training_channel}: rename it or leave interface out"
        )
    return found[0]


def _preset(given: Mapping[str, object]) -> str | None:
    name = _readable(PRESET, given.get(PRESET.name))
    return None if name is None else str(name)


def _readable(entry: Hyperparameter, raw: object) -> Value:
    """The typed value; None for one that `parse_all` will report with all other problems."""
    try:
        return parse_one(entry, raw)
    except HyperparameterError:
        return None


def _names(interface: Interface) -> list[str]:
    return [name for entry in interface.hyperparameters for name in (entry.name, *entry.aliases)]
