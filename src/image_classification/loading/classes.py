"""The classes that a source of samples has, lacks, or has alone.

In: a source and the label map of its class indices. Out: counts, warnings, and the error for data
with nothing to tell apart.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from image_classification.errors import ChannelError
from image_classification.labels.label_map import MAX_CLASSES, LabelMap, listed
from image_classification.loading.sources import FolderSource, Source
from image_classification.samples import IntArray

_log = logging.getLogger(__name__)


def class_counts(source: Source, classes: int) -> IntArray:
    """Return the number of samples with each class: int64 (classes,)."""
    if source.multi_hot is not None:
        return np.asarray(source.multi_hot.sum(axis=0, dtype=np.int64))
    return np.bincount(source.class_indices, minlength=classes)


def warn_of_absent_classes(
    name: str, source: Source, labels: LabelMap, is_training: bool = False
) -> None:
    """Log the classes without a sample; numbers without names are probably counted wrongly.

    Args:
        name: of the data, for the message.
        source: a countable one.
        labels: of its class indices.
        is_training: whether the model learns from it.
    """
    counts = class_counts(source, len(labels))
    absent = [labels.names[i] for i in np.flatnonzero(counts == 0).tolist()]
    if not absent:
        return
    if is_training and source.multi_hot is None:
        advice = labels.gaps(np.flatnonzero(counts).tolist())
        if advice is not None:
            _log.warning("%s: %d classes; %s", name, len(labels), advice)
            return
    effect = "the model cannot learn them" if is_training else "they count as 0 images"
    _log.warning("%s: no images of %s: %s", name, listed(absent), effect)


def names_of_numbers(
    name: str, names: Mapping[int, str], highest: int, classes: int | None
) -> LabelMap | None:
    """Return a label map of the names that files give to class numbers; numbers fill the gaps.

    Args:
        name: of the data, for the warning.
        names: class number → name, of one number at least.
        highest: the highest class number of the data.
        classes: how many classes there are, or None to take it from the data.

    Returns:
        None if two classes would have the same name, or if a number cannot be that of a class.
    """
    if highest >= MAX_CLASSES or (classes or 0) > MAX_CLASSES:  # of a damaged file
        return None
    is_complete = len(names) == highest + 1
    count = highest + 1 if is_complete else max(highest + 1, classes or 0)
    unnamed = [number for number in range(count) if number not in names]
    found = {**names, **{number: str(number) for number in unnamed}}
    repeated = sorted(text for text, count in Counter(found.values()).items() if count > 1)
    if repeated:
        _log.warning(
            "%s: two classes are called %s: the names in the files are not used",
            *(name, listed(repeated)),
        )
        return None
    if unnamed:
        _log.warning(
            "%s: the files name %d of %d classes; the others are called by their numbers: %s",
            *(name, len(names), len(found), listed([str(number) for number in unnamed])),
        )
    return LabelMap(tuple(found[number] for number in range(len(found))))


def refuse_one_class(name: str, training: Source, labels: LabelMap, is_sharded: bool) -> None:
    """Raise an error if there is nothing to tell apart: such a model is always right.

    Args:
        name: of the data, for the message.
        training: with one label per sample.
        labels: of its class indices.
        is_sharded: whether other hosts have samples too, possibly of other classes.

    Raises:
        ChannelError: all samples are of one class, or there is only one.
    """
    is_counted = training.is_countable and len(training) > 0 and not is_sharded
    if len(labels) > 1 and not is_counted:
        return
    present = np.unique(training.class_indices)
    if len(labels) > 1 and len(present) > 1:
        return
    inner: Sequence[str] = ()
    found = f"the only class is {labels.names[0]!r}" if labels.names else "there is none"
    if len(present) == 1 and present[0] < len(labels):
        only = labels.names[int(present[0])]
        found = f"all {len(training)} images are of the class {only!r}"
        inner = training.subclasses.get(only, ()) if isinstance(training, FolderSource) else ()
    cure = "add images of another class, or of anything that is not of this one"
    if len(inner) > 1:
        cure = (
            f"if its {len(inner)} subfolders ({listed(inner)}) are the classes, give the folder "
            "that directly holds them as the channel"
        )
    elif not isinstance(training, FolderSource):
        cure += "; each image needs the number of its class, 0, 1, …, as its label"
    raise ChannelError(f"{name}: expected at least two classes, but {found}; {cure}")
