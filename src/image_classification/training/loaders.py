"""The loaders of a job: which split is shuffled and augmented, and with how many threads."""

from __future__ import annotations

from image_classification.backends.base import World
from image_classification.contract import environment
from image_classification.data.bad_samples import BadSamples
from image_classification.data.loader import Loader
from image_classification.data.sources import Source
from image_classification.training.settings import Settings


def loader_of(
    split: str,
    source: Source,
    settings: Settings,
    bad_samples: BadSamples,
    world: World,
    *,
    on_cpu: bool,
) -> Loader:
    """The loader of `split`; only train is shuffled, augmented and shared among the ranks.

    Decodes on all CPUs beside a GPU, on few beside an engine on the CPU, which needs them itself.
    """
    cpus = environment.cpu_count()
    is_training = split == "train"
    return Loader(
        source,
        settings.preprocessing,
        settings.batch_size,
        augmentation=settings.augmentation if is_training else None,
        shuffle=is_training,
        balanced=is_training and settings.recipe.balanced_sampling,
        seed=settings.seed,
        rank=world.rank if is_training else 0,
        world_size=world.size if is_training else 1,
        threads=max(1, cpus // 4) if on_cpu else cpus,
        bad_samples=bad_samples,
        key_prefix=f"{split}/",
    )
