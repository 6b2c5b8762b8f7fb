"""Reads weights that are split into several files, which an index names, as Hugging Face does it.

Source of the format: huggingface/transformers `save_pretrained`. `model.safetensors.index.json` (or
`pytorch_model.bin.index.json`) has `weight_map`: the name of a tensor → the file that holds it, in
the same folder.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from image_classification.errors import ArtifactError
from image_classification.weights.tensors import (
    MOST_FILE_BYTES,
    MOST_HEADER_BYTES,
    MOST_TENSORS,
    RegularFile,
    Tensor,
    TensorFile,
)

INDEX_SUFFIX = ".index.json"
_MOST_NAME = 255  # bytes of a file's name, as on Linux
_MOST_FILES = 100  # all are open at the same time; an image classifier has at most a few


def is_index(path: Path) -> bool:
    """Return whether a file is such an index, by its name."""
    return path.name.lower().endswith(INDEX_SUFFIX)


def read_shards(
    index: RegularFile, read: Callable[[RegularFile], TensorFile], stack: ExitStack
) -> TensorFile:
    """Read the names of the tensors in all files of an index.

    Args:
        index: the open index.
        read: returns the tensors of one file.
        stack: closes the files.

    Raises:
        ArtifactError: a file is missing, or cannot be read.
        ValueError: the index is damaged, or contradicts its files.
    """
    places = _places(index)
    files = {name: stack.enter_context(closing(file)) for name, file in _files(index, places)}
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    formats = []
    for name, file in files.items():
        found = read(file)
        if twice := found.tensors.keys() & tensors.keys():
            raise ValueError(f"{min(twice)[:80]!r} in several of its files")
        tensors |= found.tensors
        metadata |= found.metadata
        formats.append(found.format)
        if lacking := [t for t, n in places.items() if n == name and t not in found.tensors]:
            raise ValueError(f"{lacking[0][:80]!r} in {name}, which does not have it")
    return TensorFile(index.path, f"{formats[0]} in {len(files)} files", tensors, metadata)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file of weights; of an index that of its files, one after another.

    Raises:
        ArtifactError: a file cannot be read, or the index is damaged.
    """
    with closing(RegularFile(path)) as file, ExitStack() as stack:
        if not is_index(path):
            return file.sha256()
        digest = hashlib.sha256()
        try:
            for _, part in _files(file, _places(file)):
                stack.enter_context(closing(part))
                part.add_to(digest)
        except ValueError as error:
            raise ArtifactError(f"{path}: {error}") from error
        return digest.hexdigest()


def _places(index: RegularFile) -> dict[str, str]:
    """Return the file of each tensor, by name."""
    if index.size > MOST_HEADER_BYTES:
        raise ValueError(f"an index of {index.size} bytes; expected at most {MOST_HEADER_BYTES}")
    try:
        content: Any = json.loads(index.read(0, index.size))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"an index that is not JSON ({error})"[:200]) from error
    found = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(found, dict) or not found or len(found) > MOST_TENSORS:
        raise ValueError(f"an index without a weight_map of 1 to {MOST_TENSORS} tensors")
    for name in found.values():
        if not isinstance(name, str) or not _is_plain(name):
            raise ValueError(f"an index with the file {str(name)[:80]!r}; expected a plain name")
    return found


def _is_plain(name: str) -> bool:
    is_short = len(name.encode("utf-8", "surrogatepass")) <= _MOST_NAME
    return is_short and name not in ("", ".", "..") and "\0" not in name and "/" not in name


def _files(index: RegularFile, places: Mapping[str, str]) -> list[tuple[str, RegularFile]]:
    """Open the files of an index, in the order of their names."""
    names = sorted(set(places.values()))
    if len(names) > _MOST_FILES:
        raise ValueError(f"an index of {len(names)} files; expected at most {_MOST_FILES}")
    if lacking := [name for name in names if not (index.path.parent / name).exists()]:
        raise ValueError(
            f"an index of {len(names)} files, of which {', '.join(lacking[:3])} "
            f"{'is' if len(lacking) == 1 else 'are'} not next to it: copy the whole folder again"
        )
    found: list[tuple[str, RegularFile]] = []
    try:
        found.extend((name, RegularFile(index.path.parent / name)) for name in names)
        if (size := sum(file.size for _, file in found)) > MOST_FILE_BYTES:
            raise ValueError(f"{size} bytes in all files; expected at most {MOST_FILE_BYTES}")
    except BaseException:
        for _, file in found:
            file.close()
        raise
    return found
