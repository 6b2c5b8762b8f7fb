"""The areas of generated data, with the share of the inputs that each one gets."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from generated import folders, models, packed, records, tables
from generated.case import Case


class Area(NamedTuple):
    """A kind of input.

    Attributes:
        share: of the inputs, relative to the other areas.
        make: writes an input into a folder.
        needs: modules without which the area is left out.
    """

    share: int
    make: Callable[[random.Random, Path], Case]
    needs: tuple[str, ...] = ()


AREAS: Mapping[str, Area] = {
    "records": Area(20, records.make),
    "lists": Area(12, tables.make_list),
    "tables": Area(20, tables.make),
    "tfrecords": Area(10, packed.make_tfrecords, ("google_crc32c",)),
    "shards": Area(10, packed.make_shards),
    "parquet": Area(4, packed.make_parquet, ("pyarrow",)),
    "folders": Area(12, folders.make),
    "images": Area(8, folders.make_damaged),
    "models": Area(8, models.make, ("onnx", "onnxruntime")),
}


def lacking(area: str) -> list[str]:
    """Return the modules that an area needs and that are not installed."""
    return [name for name in AREAS[area].needs if importlib.util.find_spec(name) is None]


def counts(inputs: int, only: list[str]) -> dict[str, int]:
    """Divide a number of inputs among areas by their shares; together they are at least as many."""
    total = sum(AREAS[area].share for area in only)
    return {area: -(-inputs * AREAS[area].share // total) for area in only}


def write(area: str, seed: int, number: int, folder: Path) -> Case:
    """Write input `number` of an area into an empty folder."""
    chance = random.Random(f"{seed}/{area}/{number}")
    return AREAS[area].make(chance, folder)
