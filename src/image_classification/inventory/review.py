"""A list that `check --csv` wrote and a person has reviewed: which of its images are used.

In: the table as a `Grid`. Out: the rows to use; the files of the others count as left out.
"""

from collections.abc import Sequence
from dataclasses import replace

from image_classification.errors import ListError
from image_classification.inventory.columns import Columns
from image_classification.inventory.grid import Grid
from image_classification.inventory.matching import FileIndex

DROP, RELABEL = "drop", "relabel"
COLUMNS = ("problem", "action", "was")
"""What is wrong with an image, what to do, and the label that is to change."""

DROPPED = "images that the list drops"
UNDECIDED = "images to relabel that still have the old label"


def is_review(header: Sequence[str] | None) -> bool:
    """Return True for the header of such a list."""
    return set(COLUMNS) <= set(header or ())


def reviewed(grid: Grid, columns: Columns, files: FileIndex) -> Grid:
    """Return the rows that a list of `check --csv` keeps; the files of the others are left out."""
    places = {name: grid.column((grid.header or ()).index(name)) for name in COLUMNS}
    kept = []
    for number, row in enumerate(grid.rows):
        action = places["action"][number].strip().casefold()
        label = " ".join(row[position].strip() for position in columns.labels)
        if action not in ("", DROP, RELABEL):
            raise ListError(
                f"{grid.where(number)}: expected {DROP}, {RELABEL} or nothing in the column "
                f"action, got {action!r}"
            )
        if action == DROP:
            reason = DROPPED
        elif action == RELABEL and label in ("", places["was"][number].strip()):
            reason = UNDECIDED
        else:
            kept.append(number)
            continue
        path = files.find(grid.where(number), row[columns.file])
        files.paths.discard(path)
        files.left_out.add(reason, path)
    if not kept:
        raise ListError(
            f"{grid.path}: expected images to use, but each line says {DROP}, or {RELABEL} with "
            "the old label; change the column action or label"
        )
    rows, where = [grid.rows[i] for i in kept], [grid.places[i] for i in kept]
    return replace(grid, rows=rows, places=where)
