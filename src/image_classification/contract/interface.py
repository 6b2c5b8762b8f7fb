"""The interfaces: which built-in algorithm a job is written for, and what follows from that.

`recognize` tells from the channels of a job which `Interface` it has. The rest of the package asks
this object for defaults, spellings, log lines and the form of answers, and never compares its name.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from image_classification.contract import environment, metrics, mxnet, tensorflow
from image_classification.contract.channels import Channel
from image_classification.contract.hyperparameter import (
    IGNORED_PREFIXES,
    Hyperparameter,
    Value,
    is_near,
    parse_all,
)
from image_classification.contract.metrics import LogLines, Metric
from image_classification.contract.presets import added_by
from image_classification.contract.shared import SharedHyperparameters
from image_classification.errors import ArtifactError, ChannelError, HyperparameterError

_ACTS_WITH: Mapping[str, tuple[str, Value]] = {
    "logit_adjust_tau": ("class_weights", "logit_adjust"),
}
"""Hyperparameter → the other one, and its value, without which it changes nothing."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnswerForm:
    """How a built-in's server writes the probabilities of one image, without labels.

    Attributes:
        json_key: the name of the array in application/json; None: the bare array.
        json_lines_key: its name in application/jsonlines.
        first: the first class whose probability is written: 1 for the single number, of the
            positive class, that the TensorFlow built-in answers in binary mode.
    """

    json_key: str | None
    json_lines_key: str
    first: int = 0


@dataclass(frozen=True)
class Interface:
    """Everything that distinguishes one built-in from the other.

    Attributes:
        name: mxnet or tensorflow, as checkpoints, artifacts and messages name it.
        training_channel: the name of its channel of training images.
        channels, metrics: its declared tables.
        declarations: its table of hyperparameters; an instance holds the values of a job.
        lines: its log lines.
        answers: the form of its server's answers.
        ignores_foreign_names: whether its script ignores hyperparameters that it does not have, and
            spells some of its own with dashes.
    """

    name: str
    training_channel: str
    channels: tuple[Channel, ...]
    declarations: type[SharedHyperparameters]
    metrics: tuple[Metric, ...]
    lines: LogLines
    answers: AnswerForm
    ignores_foreign_names: bool = False

    @property
    def hyperparameters(self) -> tuple[Hyperparameter[Any], ...]:
        """The rows of its table."""
        return self.declarations.declared()

    def parse(self, given: Mapping[str, object]) -> SharedHyperparameters:
        """Return the typed hyperparameters of a job; those of a preset fill in what it leaves out.

        A job that names no backend gets the backend of its image.

        Raises:
            HyperparameterError: lists every problem; a name of the other interface is explained.
        """
        other = next(entry for entry in INTERFACES.values() if entry is not self)
        remark = (
            f"it belongs to the {other.name} interface (channel {other.training_channel}), but the "
            f"job has the {self.name} interface"
        )
        elsewhere = {name: remark for entry in other.hyperparameters for name in entry.names}
        given = self.respelled(given)
        if self.ignores_foreign_names:
            given = _without_foreign(given, self.hyperparameters, elsewhere)
        added = self.added_by_preset(given)
        parsed = parse_all(self.hyperparameters, dict(given) | added, elsewhere)
        if given.get("preset"):
            shown = ", ".join(f"{name}={value}" for name, value in added.items())
            nothing = "nothing: the job sets all its values"
            _logger.info("preset=%s sets %s", given["preset"], shown or nothing)
        values = self.declarations(parsed)
        for entry in self.hyperparameters:
            value = parsed[entry.name]
            if not entry.acts_with(values.optimizer) and value != entry.default:
                _logger.info(
                    "%s=%s has no effect with optimizer=%s: it works with %s",
                    *(entry.name, value, values.optimizer, ", ".join(entry.optimizers)),
                )
            needed, only = _ACTS_WITH.get(entry.name, ("", None))
            if needed and parsed[needed] != only and value != entry.default:
                _logger.info("%s=%s has no effect without %s=%s", entry.name, value, needed, only)
        return values.with_value(
            SharedHyperparameters.backend, values.backend or environment.BACKEND.read()
        )

    def respelled(self, given: Mapping[str, object]) -> dict[str, object]:
        """Return the hyperparameters with underscores instead of dashes, if its script takes both.

        Raises:
            HyperparameterError: a job sets both spellings.
        """
        if not self.ignores_foreign_names:
            return dict(given)
        respelled: dict[str, object] = {}
        for name, value in given.items():
            ours = name.replace("-", "_")
            if ours in respelled or (ours != name and ours in given):
                raise HyperparameterError(
                    f"{ours.replace('_', '-')} and {ours} mean the same: set only one of them"
                )
            respelled[ours] = value
        return respelled

    def added_by_preset(self, given: Mapping[str, object]) -> dict[str, str]:
        """Return the values that the preset of a job adds: hyperparameter → value as text."""
        preset = _readable(SharedHyperparameters.preset, given.get("preset"))
        return added_by(str(preset), self.name, self._own(given)) if preset else {}

    def _own(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Return the typed values that a job sets itself; None where a value is not legal."""
        return {
            entry.name: _readable(entry, given[name])
            for entry in self.hyperparameters
            for name in entry.names
            if name in given
        }


INTERFACES = {
    "mxnet": Interface(
        "mxnet",
        "train",
        mxnet.CHANNELS,
        mxnet.MXNetHyperparameters,
        metrics.MXNET_METRICS,
        metrics.MXNetLines(),
        AnswerForm(json_key=None, json_lines_key="prediction"),
    ),
    "tensorflow": Interface(
        "tensorflow",
        "training",
        tensorflow.CHANNELS,
        tensorflow.TensorFlowHyperparameters,
        metrics.TENSORFLOW_METRICS,
        metrics.KerasLines(),
        AnswerForm(json_key="probabilities", json_lines_key="probabilities"),
        ignores_foreign_names=True,
    ),
}


def interface_of(name: str) -> Interface:
    """Return the interface that an artifact's manifest names; ArtifactError if there is none."""
    if name not in INTERFACES:
        raise ArtifactError(
            f"the artifact's interface is {name!r}; expected {' or '.join(INTERFACES)}"
        )
    return INTERFACES[name]


def answer_form(manifest: Mapping[str, Any]) -> AnswerForm:
    """Return the form of the answers of the model that an artifact's manifest describes."""
    form = interface_of(str(manifest["interface"])).answers
    is_single = manifest.get("binary_answer") == "sigmoid" and manifest.get("classes") == 2
    return replace(form, first=1) if is_single else form


def recognize(channels: Iterable[str], hyperparameters: Mapping[str, object]) -> Interface:
    """Return the interface of a job, as its training channel determines.

    Raises:
        ChannelError: the job has no training channel, or those of both interfaces.
        HyperparameterError: the hyperparameter `interface` contradicts the channels.
    """
    names = set(channels)
    found = [entry for entry in INTERFACES.values() if entry.training_channel in names]
    wanted = SharedHyperparameters.interface.parse(hyperparameters.get("interface"))
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


_OF_THE_SCRIPT = {
    *("model_dir", "train", "validation", "test", "pretrained_model", "hosts", "current_host"),
    *("verbose_one_line_per_epoch", "checkpoint_save_best_only", "seed"),
}
"""Arguments of JumpStart's training script that are no hyperparameters of the built-in."""


def _without_foreign(
    given: Mapping[str, object],
    declared: Iterable[Hyperparameter[Any]],
    elsewhere: Mapping[str, str],
) -> dict[str, object]:
    """Leave out names that are nothing like a declared one, with a warning, as the script does."""
    known = {name for entry in declared for name in entry.names} | set(elsewhere)
    foreign = [
        name
        for name in given
        if name in _OF_THE_SCRIPT
        or not (name in known or name.startswith(IGNORED_PREFIXES) or is_near(name, known))
    ]
    if foreign:
        _logger.warning(
            "Ignoring hyperparameters that this interface does not have, as the built-in does: %s",
            ", ".join(foreign),
        )
    return {name: value for name, value in given.items() if name not in foreign}


def _readable(entry: Hyperparameter[Any], raw: object) -> Value:
    """Return the typed value, or None for one that `parse_all` reports with all other problems."""
    try:
        return entry.parse(raw)
    except HyperparameterError:
        return None
