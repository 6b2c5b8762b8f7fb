"""What a job reports besides text: values on its log records, for people and programs.

A record carries one as its attribute `event`. The plain log ignores it, the JSON log writes its
fields, the terminal draws it. Events that only a terminal draws have no text: their records have
the level PROGRESS, which no other log enables.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

PROGRESS = 5
"""The level of the records of events without text, below DEBUG."""


@dataclass(frozen=True)
class Event:
    """Something that a job reports.

    Attributes:
        name: of the kind of event, in the JSON log.
    """

    name: ClassVar[str]

    @property
    def extra(self) -> dict[str, Event]:
        """What `logging` attaches to a record."""
        return {"event": self}


@dataclass(frozen=True)
class Note(Event):
    """A line that a terminal shows too."""

    name: ClassVar[str] = "note"


@dataclass(frozen=True)
class Activity(Event):
    """What the job does from now on, such as "opening the channels"."""

    name: ClassVar[str] = "activity"
    text: str


@dataclass(frozen=True)
class Configured(Event):
    """The job's data and settings.

    Attributes:
        preset: name, or "".
        given, by_preset: name → value of the hyperparameters that differ from their defaults: those
            that the user gave, those that the preset sets.
        classes: the first names.
        class_count, training_images, validation_images: numbers.
    """

    name: ClassVar[str] = "configured"
    interface: str
    backend: str
    backbone: str
    preset: str
    given: Mapping[str, str]
    by_preset: Mapping[str, str]
    classes: Sequence[str]
    class_count: int
    training_images: int
    validation_images: int


@dataclass(frozen=True)
class Built(Event):
    """The network.

    Attributes:
        started_from: the origin of the first weights, in a few words.
    """

    name: ClassVar[str] = "built"
    backbone: str
    device: str
    threads: int
    parameters: int
    trainable_parameters: int
    started_from: str


@dataclass(frozen=True)
class Featured(Event):
    """Images of a frozen backbone whose features are computed.

    Attributes:
        copy: of the images, 1 for the first.
        copies: number of copies.
        done, total: images.
        seconds_left: of this copy.
    """

    name: ClassVar[str] = "features"
    copy: int
    copies: int
    done: int
    total: int
    seconds_left: float


@dataclass(frozen=True)
class Stepped(Event):
    """Where an epoch is.

    Attributes:
        epoch: 1 for the first.
        epochs, steps: numbers of the job, of an epoch.
        step: number of complete steps.
        is_validating: whether the steps are over.
        images_per_second: 0 before the first step.
        seconds_left: of the job; None if it is unknown.
        train: running metrics.
    """

    name: ClassVar[str] = "step"
    epoch: int
    epochs: int
    step: int
    steps: int
    is_validating: bool = False
    images_per_second: float = 0.0
    seconds_left: float | None = None
    train: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochEnded(Event):
    """A validated epoch.

    Attributes:
        epoch: 1 for the first.
        train, validation: metrics.
        seconds: of its training steps.
        seconds_left: of the job.
    """

    name: ClassVar[str] = "epoch"
    epoch: int
    epochs: int
    train: Mapping[str, float]
    validation: Mapping[str, float]
    seconds: float
    images_per_second: float
    learning_rate: float
    seconds_left: float


@dataclass(frozen=True)
class Tested(Event):
    """The final model's metrics on the `test` channel."""

    name: ClassVar[str] = "test"
    test: Mapping[str, float]
    images: int
    seconds: float


@dataclass(frozen=True)
class Finished(Event):
    """The result of a job.

    Attributes:
        best_epoch: 1 for the first; of `epochs` complete ones.
        metric: by which it is the best.
        validation: its metrics, with the probabilities to be served.
        test: those of the `test` channel; empty without it.
        images: number in validation.
        classes: (name, images, share of them that is right, the class that it is taken for most
            often or ""); the worst first.
        artifact: its folder.
    """

    name: ClassVar[str] = "finished"
    best_epoch: int
    epochs: int
    metric: str
    validation: Mapping[str, float]
    test: Mapping[str, float]
    images: int
    classes: Sequence[tuple[str, int, float, str]]
    artifact: str


def is_drawn(logger: logging.Logger) -> bool:
    """Return whether somebody watches events without text."""
    return logger.isEnabledFor(PROGRESS)


def draw(logger: logging.Logger, event: Event) -> None:
    """Report an event without text."""
    if is_drawn(logger):
        logger.log(PROGRESS, "%s", event.name, extra=event.extra)
