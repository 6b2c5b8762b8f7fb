"""The loaders of a job, and what several hosts must agree on before they train.

`loader_of` decides which split is shuffled and augmented, and how many threads decode it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from image_classification.backends.base import World
from image_classification.contract import process as environment
from image_classification.errors import UserError
from image_classification.loading.bad_samples import BadSamples, parse_limit
from image_classification.loading.classes import class_counts
from image_classification.loading.feature_loader import FeatureLoader
from image_classification.loading.loader import Loader
from image_classification.loading.sources import Source
from image_classification.training.feature_cache import FeatureCache, augmentation_of
from image_classification.training.group import ProcessGroup
from image_classification.training.inputs import Inputs, TrainingTotals
from image_classification.training.settings import Settings


def agreed(inputs: Inputs, settings: Settings, group: ProcessGroup, *, is_sharded: bool) -> Inputs:
    """Return the inputs; with sharded training data, with the totals of all hosts.

    Every rank must call this. All of them raise, so that no rank waits for the others.

    Raises:
        UserError: the hosts have different classes or preprocess images differently, or all their
            training images are of one class.
    """
    if group.world.size == 1:
        return inputs
    _check_agreement(inputs, settings, group)
    if not is_sharded:
        return inputs
    sizes = group.gathered(len(inputs.training))
    counts = class_counts(inputs.training, len(inputs.labels)).astype(np.float64)
    counts = group.engine.all_reduce(counts)
    present = np.flatnonzero(counts)
    if len(present) < 2 and not settings.multi_label:
        raise UserError(
            f"expected at least two classes, but all {sum(sizes)} training images of all hosts are "
            f"of the class {', '.join(inputs.labels.names[i] for i in present.tolist())!r}; add "
            "images of another class"
        )
    totals = TrainingTotals(int(sum(sizes)), int(max(sizes)), counts.astype(np.int64))
    return replace(inputs, totals=totals)


def _check_agreement(inputs: Inputs, settings: Settings, group: ProcessGroup) -> None:
    names, preprocessing = list(inputs.labels.names), settings.preprocessing.to_json()
    content = json.dumps([names, preprocessing, settings.multi_label]).encode()
    fingerprint = int.from_bytes(hashlib.sha256(content).digest()[:6], "big")  # exact as float64
    if len(set(group.gathered(fingerprint))) > 1:
        raise UserError(
            f"the hosts of this job do not agree on the classes or on the preprocessing of images: "
            f"this one has {len(names)} classes, {', '.join(names[:20])}, and resize="
            f"{settings.preprocessing.resize}; give every host the same channels, or with "
            "ShardedByS3Key set the hyperparameters labels and resize"
        )


def _shard_seed(seed: int, rank: int) -> int:
    """Return a seed for the order of a host's shard, so that no two hosts draw alike."""
    return int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])


@dataclass(frozen=True)
class Loaders:
    """The loaders of a job.

    Attributes:
        training, validation: of every job.
        test: None without that channel.
        bad_samples: the samples that the loaders have skipped.
    """

    training: Loader
    validation: Loader
    test: Loader | None
    bad_samples: BadSamples


@contextmanager
def open_loaders(
    settings: Settings,
    inputs: Inputs,
    world: World,
    *,
    on_cpu: bool,
    cache: FeatureCache | None = None,
    closes_sources: bool = True,
) -> Iterator[Loaders]:
    """Yield the loaders; the end of the block closes them and their sources.

    Args:
        settings, inputs: of the job.
        world: this process among those that train together.
        on_cpu: whether the engine computes on the CPU.
        cache: of features, if the job has one.
        closes_sources: False leaves the sources open.
    """
    bad_samples = bad_samples_of(settings, inputs)
    loaders = {
        name: loader_of(
            *(name, source, settings, bad_samples, world),
            on_cpu=on_cpu,
            totals=inputs.totals,
            cache=cache,
        )
        for name, source in inputs.splits.items()
    }
    try:
        yield Loaders(loaders["train"], loaders["validation"], loaders.get("test"), bad_samples)
    finally:
        for loader in loaders.values():
            loader.close()
            if closes_sources:
                loader.source.close()


def bad_samples_of(settings: Settings, inputs: Inputs) -> BadSamples:
    """Return what counts the bad samples of all splits, up to the number that the job allows."""
    count = sum(len(source) for source in inputs.splits.values())
    return BadSamples(
        parse_limit(settings.max_bad_samples, count),
        "repair or remove them, or allow more with max_bad_samples (a count, or 1%)",
    )


def loader_of(
    split: str,
    source: Source,
    settings: Settings,
    bad_samples: BadSamples,
    world: World,
    *,
    on_cpu: bool,
    totals: TrainingTotals | None = None,
    cache: FeatureCache | None = None,
) -> Loader:
    """Return the loader of `split`; only train is shuffled, augmented and divided among the ranks.

    With a cache that has a store for the split, the loader gives features instead of images.

    It decodes on all CPUs if the engine runs on a GPU, else on a quarter of them: the engine needs
    the others.
    """
    cpus = environment.cpu_count()
    is_training = split == "train"
    shards = totals if is_training else None
    is_shared = is_training and shards is None
    kind: Callable[..., Loader] = Loader
    if cache is not None and split in cache.stores:
        is_alone = not is_training or world.size == 1
        kind = partial(
            FeatureLoader, store=cache.stores[split], trunk=cache.trunk, is_alone=is_alone
        )
    return kind(
        source,
        settings.preprocessing,
        settings.batch_size // world.local_size,
        augmentation=augmentation_of(settings, cache) if is_training else None,
        shuffle=is_training,
        balanced=is_training and settings.recipe.balanced_sampling,
        seed=_shard_seed(settings.seed, world.rank) if shards else settings.seed,
        rank=world.rank if is_shared else 0,
        world_size=world.size if is_shared else 1,
        most_samples=shards.most_samples if shards else None,
        threads=max(1, cpus // 4) if on_cpu else cpus,
        bad_samples=bad_samples,
        key_prefix=f"{split}/",
    )
