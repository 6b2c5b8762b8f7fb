"""The loaders of a job: which split is shuffled and augmented, and with how many threads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from image_classification.backends.base import World
from image_classification.contract import process as environment
from image_classification.errors import UserError
from image_classification.loading.bad_samples import BadSamples, parse_limit
from image_classification.loading.loader import Loader
from image_classification.loading.sources import Source
from image_classification.training.group import ProcessGroup
from image_classification.training.inputs import Inputs, WholeTraining, class_counts
from image_classification.training.settings import Settings


def agreed(inputs: Inputs, settings: Settings, group: ProcessGroup, *, is_part: bool) -> Inputs:
    """The inputs that all hosts agree on; of a host that has a part, with what is known of all.

    Every rank must call this, and all of them raise, so that none waits for the others.

    Raises:
        UserError: the hosts have other classes, or would prepare images otherwise.
    """
    if group.world.size == 1:
        return inputs
    _check_agreement(inputs, settings, group)
    return _with_all_parts(inputs, group) if is_part else inputs


def _check_agreement(inputs: Inputs, settings: Settings, group: ProcessGroup) -> None:
    names, preprocessing = list(inputs.labels.names), settings.preprocessing.to_json()
    content = json.dumps([names, preprocessing, settings.multi_label]).encode()
    fingerprint = int.from_bytes(hashlib.sha256(content).digest()[:6], "big")  # exact as float64
    if len(set(group.gathered(fingerprint))) > 1:
        raise UserError(
            f"the hosts of this job do not agree on the classes or on how images are prepared: "
            f"this one has {len(names)} classes, {', '.join(names[:20])}, and resize="
            f"{settings.preprocessing.resize}; give every host the same channels, or with "
            "ShardedByS3Key name the classes by the hyperparameter labels, and set resize"
        )


def _with_all_parts(inputs: Inputs, group: ProcessGroup) -> Inputs:
    own = inputs.training
    sizes = group.gathered(len(own))
    counts = group.engine.all_reduce(class_counts(own, len(inputs.labels)).astype(np.float64))
    whole = WholeTraining(int(sum(sizes)), int(max(sizes)), counts.astype(np.int64))
    return replace(inputs, whole=whole)


def own_seed(seed: int, rank: int) -> int:
    """A seed for the order of a host's own part, so that hosts do not draw alike."""
    return int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])


@dataclass(frozen=True)
class Loaders:
    """The loaders of a job.

    Attributes:
        training, validation: of every job.
        test: None without that channel.
        bad_samples: that any of them has left out.
    """

    training: Loader
    validation: Loader
    test: Loader | None
    bad_samples: BadSamples


@contextmanager
def open_loaders(
    settings: Settings, inputs: Inputs, world: World, *, on_cpu: bool
) -> Iterator[Loaders]:
    """Yield the loaders; they and their sources are closed at the end of the block.

    Args:
        settings, inputs: of the job.
        world: this process among those that train together.
        on_cpu: whether the engine computes on the CPU.
    """
    count = sum(len(source) for source in inputs.splits.values())
    bad_samples = BadSamples(
        parse_limit(settings.max_bad_samples, count),
        "repair or remove them, or allow more with max_bad_samples (a count, or 1%)",
    )
    loaders = {
        name: loader_of(
            name, source, settings, bad_samples, world, on_cpu=on_cpu, whole=inputs.whole
        )
        for name, source in inputs.splits.items()
    }
    try:
        yield Loaders(loaders["train"], loaders["validation"], loaders.get("test"), bad_samples)
    finally:
        for loader in loaders.values():
            loader.close()
            loader.source.close()


def loader_of(
    split: str,
    source: Source,
    settings: Settings,
    bad_samples: BadSamples,
    world: World,
    *,
    on_cpu: bool,
    whole: WholeTraining | None = None,
) -> Loader:
    """The loader of `split`; only train is shuffled, augmented and shared among the ranks.

    Decodes on all CPUs beside a GPU, on few beside an engine on the CPU, which needs them itself.
    """
    cpus = environment.cpu_count()
    is_training = split == "train"
    is_part = is_training and whole is not None
    is_shared = is_training and not is_part
    return Loader(
        source,
        settings.preprocessing,
        settings.batch_size // world.local_size,
        augmentation=settings.augmentation if is_training else None,
        shuffle=is_training,
        balanced=is_training and settings.recipe.balanced_sampling,
        seed=own_seed(settings.seed, world.rank) if is_part else settings.seed,
        rank=world.rank if is_shared else 0,
        world_size=world.size if is_shared else 1,
        most_samples=whole.most_samples if is_part and whole is not None else None,
        threads=max(1, cpus // 4) if on_cpu else cpus,
        bad_samples=bad_samples,
        key_prefix=f"{split}/",
    )
