"""Which lists a prefix means: im2rec packs every list whose name begins with it, also others'.

In: the PREFIX of a command line. Out: the lists that `im2rec --list` writes under this prefix.
Source of the old rule: `main` in `tools/im2rec.py` of MXNet 1.9.1.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from image_classification.errors import UsageError

_SUFFIXES = re.compile(r"(_\d+)?(_train|_val|_test)?\.lst")
_log = logging.getLogger(__name__)


def select_lists(prefix: Path, *, exact_im2rec_prefix: bool = False) -> list[Path]:
    """The lists to pack, sorted by name.

    A folder means every list in it; a file that ends in `.lst` itself; anything else `PREFIX.lst`,
    `PREFIX_train.lst`, `PREFIX_0.lst`, `PREFIX_0_val.lst` and their like.

    Args:
        prefix: what the user gave.
        exact_im2rec_prefix: take every list whose name begins with the prefix, as im2rec does.

    Raises:
        UsageError: no such list; the message names what is there.
    """
    if prefix.is_dir():
        found = _lists_in(prefix, "")
        if found or not prefix.with_name(f"{prefix.name}.lst").is_file():
            return _some(found, f"{prefix} is a folder without a list (.lst)")
    if prefix.suffix == ".lst" and prefix.is_file():
        return [prefix]
    beginning = _lists_in(prefix.parent, prefix.name)
    if exact_im2rec_prefix:
        return _some(beginning, f"{prefix.parent} has no list that begins with {prefix.name}")
    own = [path for path in beginning if _SUFFIXES.fullmatch(path.name[len(prefix.name) :])]
    others = [path.name for path in beginning if path not in own]
    if others and own:
        _log.warning(
            "%s not packed: begins with %s, but is another list (--exact-im2rec-prefix packs it)",
            ", ".join(others),
            prefix.name,
        )
    seen = f" (there is {', '.join(others)}; name one of them)" if others else ""
    return _some(own, f"expected {prefix}.lst, {prefix}_train.lst or their like, found none{seen}")


def _lists_in(folder: Path, beginning: str) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if path.name.startswith(beginning)]
    except OSError as error:
        raise UsageError(f"{folder}: expected a folder with lists: {error.strerror}") from error
    return sorted(path for path in paths if path.suffix == ".lst" and path.is_file())


def _some(paths: list[Path], complaint: str) -> list[Path]:
    if not paths:
        raise UsageError(f"{complaint}; make lists first: im2rec --list --recursive PREFIX ROOT")
    return paths
