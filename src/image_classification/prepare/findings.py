"""The findings of preprocessing, as JSON and as a page: counts, unusable images, equal images.

In: what was written of each split. Out: `findings.json` for programs, `findings.html` for people.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from image_classification.images.encode import thumbnail_of_file
from image_classification.inventory.rows import Inventory
from image_classification.labels.kinds import LabelKind, classes_of
from image_classification.labels.label_map import alike
from image_classification.labels.lists import ListEntry
from image_classification.labels.tree import class_name
from image_classification.loading.sources import NESTED
from image_classification.pages import render
from image_classification.pages.charts import class_bars
from image_classification.prepare.encode import EncodedImage
from image_classification.samples import IMBALANCED

_NAMED = 10  # classes in a remark
_LEAST = {"train": 1, "validation": 2, "test": 3}  # images of a class that fill the split
_MOST_PICTURES = 24  # in a section of the page; about 4 KB each


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image in messages and reports.

    Attributes:
        split: the split it was meant for.
        path: below the folder of the images.
        label: class name; of several classes, all names.
        reason: why it cannot be used, or None.
    """

    split: str
    path: str
    label: str
    reason: str | None = None

    def to_json(self) -> dict[str, str]:
        """Return the image as JSON values; bytes that are not UTF-8 as `\\xe9`."""
        described = {"split": self.split, "path": class_name(self.path), "label": self.label}
        return described if self.reason is None else {**described, "reason": self.reason}


@dataclass
class SplitFindings:
    """What was written of one split.

    Attributes:
        class_counts: images of each class, in the order of the label map.
        files: stems of its shards.
        images: how many were written.
        size_bytes: of all shards.
        left_out: the unusable images.
    """

    class_counts: list[int]
    files: list[str] = field(default_factory=list)
    images: int = 0
    size_bytes: int = 0
    left_out: list[ListedImage] = field(default_factory=list)

    def add(self, image: ListedImage, classes: Sequence[int], size: int) -> None:
        """Count one image of `classes`, written in `size` bytes or unusable."""
        if image.reason is not None:
            self.left_out.append(image)
            return
        self.images += 1
        self.size_bytes += size
        for class_index in classes:
            self.class_counts[class_index] += 1


class Findings:
    """What a host finds and writes, from the first image to the report.

    Args:
        inventory: the input.
        splits: the splits that are written.
        settings: how they are written, as JSON values.
        host, hosts: which of how many hosts this is, from 0; one host sees its own shards only.

    Attributes:
        splits: split → what was written of it so far.
    """

    def __init__(
        self,
        inventory: Inventory,
        splits: Sequence[str],
        settings: Mapping[str, Any],
        host: int = 0,
        hosts: int = 1,
    ) -> None:
        self.inventory, self.labels = inventory, inventory.labels
        self.settings, self.host, self.hosts = settings, host, hosts
        self.splits = {name: SplitFindings([0] * len(inventory.labels)) for name in splits}
        self._by_digest: dict[bytes, list[ListedImage]] = {}
        self._unlabeled = 0

    def add(self, split: str, image: EncodedImage, size: int) -> None:
        """Count one image, written in `size` bytes or unusable."""
        classes = self._classes_of(image.entry)
        names = ", ".join(self.labels.names[index] for index in classes) or "no class"
        listed = ListedImage(split, image.entry.path, names, image.reason)
        self.splits[split].add(listed, classes, size)
        self._unlabeled += image.reason is None and not classes
        if image.reason is None:
            self._by_digest.setdefault(image.digest, []).append(listed)

    def lost_classes(self) -> list[str]:
        """Return classes of unusable images that lack in a split for which enough are usable.

        Only where one host draws the split: several hosts must draw the same one, and a host does
        not know the unusable images of the others.
        """
        if self.hosts > 1 or self.inventory.splits or not self.left_out:
            return []
        unusable, totals = {image.path for image in self.left_out}, self.class_totals()
        touched = {
            index
            for entry in self.inventory.entries
            if entry.path in unusable
            for index in self._classes_of(entry)
        }
        return [
            self.labels.names[index]
            for index in sorted(touched)
            if any(
                totals[index] >= _LEAST[name] and not split.class_counts[index]
                for name, split in self.splits.items()
            )
        ]

    def emptied_class(self) -> tuple[str, ListedImage] | None:
        """Return a class of which every image is unusable, and the first of them; None without one.

        Only where one host sees all images.
        """
        if self.hosts > 1:
            return None
        totals, by_path = self.class_totals(), {image.path: image for image in self.left_out}
        for entry in self.inventory.entries if by_path else ():
            for index in self._classes_of(entry):
                if not totals[index] and entry.path in by_path:
                    return self.labels.names[index], by_path[entry.path]
        return None

    def _classes_of(self, entry: ListEntry) -> list[int]:
        kind = LabelKind.MULTI_HOT if self.inventory.is_multi_label else LabelKind.CLASS
        return [int(label) for label in classes_of(entry.labels, kind)]

    def keep_left_out(self, earlier: "Findings") -> None:
        """Take over the unusable images of a run whose split was drawn again without them.

        A split that can no longer be filled is gone; its unusable images count with the first one.
        """
        for image in earlier.left_out:
            split = image.split if image.split in self.splits else next(iter(self.splits))
            self.splits[split].left_out.append(replace(image, split=split))

    def add_shard(self, split: str, stem: str) -> None:
        """Note the files of a shard that is complete."""
        self.splits[split].files.append(stem)

    @property
    def images(self) -> int:
        """How many images were written."""
        return sum(split.images for split in self.splits.values())

    @property
    def left_out(self) -> list[ListedImage]:
        """The unusable images of all splits."""
        return [image for split in self.splits.values() for image in split.left_out]

    @property
    def duplicates(self) -> list[list[ListedImage]]:
        """Groups of images whose files have equal bytes."""
        return [group for group in self._by_digest.values() if len(group) > 1]

    @property
    def crossing(self) -> list[list[ListedImage]]:
        """The duplicates in several splits: validation images that are also trained on."""
        return [group for group in self.duplicates if len({image.split for image in group}) > 1]

    @property
    def contradicting(self) -> list[list[ListedImage]]:
        """The duplicates with several classes."""
        return [group for group in self.duplicates if len({image.label for image in group}) > 1]

    @property
    def not_taken(self) -> list[tuple[str, int, str]]:
        """(what, how many, one example) of files in the input that are in no split."""
        return [row for row in self.inventory.left_out if row[0] != NESTED]

    def class_totals(self) -> list[int]:
        """Return the number of images of each class in all splits."""
        counts = [split.class_counts for split in self.splits.values()]
        return [sum(split[i] for split in counts) for i in range(len(self.labels))]

    def remarks(self) -> Iterator[str]:
        """Yield one sentence for each thing to look at before training."""
        if self.inventory.is_multi_label:
            yield "images can have several classes: train with multi_label=1"
        if self.inventory.splits and "validation" not in self.splits:
            yield (
                "the input has no validation split, and none is written: a training job holds out "
                "some images with validation_split_ratio=0.2, or draw the split from the training "
                "images with --train-ratio 0.8"
            )
        if self._unlabeled:
            yield f"images of none of the classes: {self._unlabeled}"
        if self.left_out:
            yield f"images left out because they cannot be used: {len(self.left_out)}"
        if self.crossing:
            yield (
                f"identical images in several splits: {len(self.crossing)}; the accuracy on the "
                "held-out splits will be too high"
            )
        if self.contradicting:
            yield f"identical images in several classes: {len(self.contradicting)}"
        totals = self.class_totals()
        present = [i for i, total in enumerate(totals) if total]
        if len(present) == 1 and self.hosts == 1:
            yield (
                f"all images are of the class {self.labels.names[present[0]]}: training needs at "
                "least two classes"
            )
        is_whole = self.hosts == 1 and not self.inventory.is_multi_label
        advice = self.labels.gaps(present) if is_whole else None
        if advice is not None:
            yield advice
        for group in alike(self.labels.names):
            yield f"classes {group}: if they are one, give them one name"
        if min(totals) and max(totals) >= IMBALANCED * min(totals):
            yield (
                f"the largest class has {max(totals)} images, the smallest {min(totals)}: "
                "accuracy will say little about the small classes"
            )
        # Another host may have the rest.
        for name, split in self.splits.items() if self.hosts == 1 else ():
            pairs = zip(self.labels.names, split.class_counts, strict=True)
            absent = [label for label, count in pairs if not count]
            if absent:
                more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
                yield f"{name} has no images of {', '.join(absent[:_NAMED])}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return the findings as JSON values."""
        return {
            "input": self.inventory.name,
            "host": self.host,
            "hosts": self.hosts,
            **self.settings,
            **({"multi_label": True} if self.inventory.is_multi_label else {}),
            "remarks": list(self.remarks()),
            "splits": {name: self._split_json(split) for name, split in self.splits.items()},
            "duplicates": [[image.to_json() for image in group] for group in self.duplicates],
            "not_taken": [
                {"what": what, "count": count, "example": class_name(example)}
                for what, count, example in self.not_taken
            ],
        }

    def _split_json(self, split: SplitFindings) -> dict[str, Any]:
        return {
            "images": split.images,
            "bytes": split.size_bytes,
            "files": split.files,
            "images_per_class": dict(zip(self.labels.names, split.class_counts, strict=True)),
            "left_out": [image.to_json() for image in split.left_out],
        }

    def page(self) -> str:
        """Return the findings as HTML."""
        splits, suspect = self.splits, [*self.crossing]
        suspect += [group for group in self.contradicting if group not in suspect]
        others = [group for group in self.duplicates if group not in suspect]
        pictured, others = suspect[: _MOST_PICTURES // 2], suspect[_MOST_PICTURES // 2 :] + others
        totals, names = self.class_totals(), self.labels.names
        return render(
            "findings.html",
            findings=self,
            splits=[
                (name, split.images, len(split.left_out), f"{split.size_bytes / 1e6:.1f} MB",
                 len(split.files))
                for name, split in splits.items()
            ],
            chart=class_bars(names, {name: split.class_counts for name, split in splits.items()}),
            classes=[
                (name, *(split.class_counts[i] for split in splits.values()), totals[i])
                for i, name in enumerate(names)
            ],
            left_out=[(image, self._preview(image)) for image in self.left_out[:_MOST_PICTURES]],
            more_left_out=[(i.path, i.reason) for i in self.left_out[_MOST_PICTURES:]],
            pictured_duplicates=[(group, self._preview(group[0])) for group in pictured],
            more_duplicates=[
                (", ".join(image.path for image in group), group[0].split) for group in others
            ],
            settings=[
                (name.replace("_", " "), "as in the input" if value is None else str(value))
                for name, value in self.settings.items()
            ],
        )  # fmt: skip

    def _preview(self, image: ListedImage) -> str | None:
        return thumbnail_of_file(self.inventory.root / image.path)
