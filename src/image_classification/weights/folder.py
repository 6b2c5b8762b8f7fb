"""Finds the weights in a folder or an archive, and reads what folders of hubs say of them.

A folder of Hugging Face or timm has `model.safetensors` or `pytorch_model.bin`, and in
`config.json` and `preprocessor_config.json` the size and normalization of the images and the names
of the classes.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from image_classification.archive import unpacked
from image_classification.errors import ArtifactError
from image_classification.weights.shards import INDEX_SUFFIX
from image_classification.weights.tensors import RegularFile

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".h5", ".hdf5", ".params", ".keras")
"""The usual endings of files of weights; `.weights.h5` is one of `.h5`."""

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")
"""The endings of archives that can hold such a file, or the folder of a hub."""

_KERAS = ".keras"  # a ZIP that holds a .weights.h5
_SAFETENSORS, _PICKLED = "model.safetensors", "pytorch_model.bin"
_OF_HUB = (_SAFETENSORS, _SAFETENSORS + INDEX_SUFFIX, _PICKLED, _PICKLED + INDEX_SUFFIX)
_OF_ARTIFACT = ("weights.safetensors", "manifest.json")  # next to weights-last.safetensors
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.[a-z]+)")
_CONFIG, _PREPROCESSOR, _CARD = "config.json", "preprocessor_config.json", "README.md"
_MOST_ENTRIES = 10_000
_MOST_LEVELS = 3  # folders in folders, each the only one in its folder
_MOST_CONFIG_BYTES = 8 * 2**20  # 21,000 names of classes take 1 MB
_MOST_SIZE = 2048  # pixels of a side
_MOST_CLASSES = 100_000
_ADDRESS = re.compile(r"(?i)[a-z][a-z0-9+.-]+:/")  # a path loses one of the slashes
_LICENSE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]{1,60})[\"']?[ \t]*$", re.MULTILINE)
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}  # Pillow's

# What `unpacking_once` keeps: the folder of each archive.
_kept: ContextVar[tuple[ExitStack, dict[Path, Path]] | None] = ContextVar("_kept", default=None)


@dataclass(frozen=True)
class Description:
    """What a folder says of the network whose weights it holds; None and () where it is silent.

    Attributes:
        architecture: its name there, such as `resnet50` or `ResNetForImageClassification`.
        mean, std: of the images, in units of 0–255.
        input_size: side in pixels.
        resize: shorter side before the center crop, in pixels.
        interpolation: of that resize.
        labels: the class names in index order.
        license: as the folder writes it.
    """

    architecture: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    input_size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    labels: tuple[str, ...] = ()
    license: str = ""


def is_archive(path: Path) -> bool:
    """Return whether a file that `find_weights` returns is an archive, which `located` unpacks."""
    return path.name.lower().endswith((*ARCHIVES, _KERAS))


@contextmanager
def located(path: Path) -> Iterator[Path]:
    """Yield the file of weights that `path` is or holds; an archive is unpacked for the block.

    Raises:
        ArtifactError: see `find_weights`; or the archive is damaged, or `archive.unpack` refuses
            it. Errors of the block name the archive, and not where it is unpacked.
    """
    found = find_weights(path)
    if not is_archive(found):
        yield found
        return
    with _unpacked(found) as folder:
        try:
            inner = find_weights(folder)
            if is_archive(inner):
                raise ArtifactError(f"{inner}: expected weights, got an archive in an archive")
            yield inner
        except ArtifactError as error:
            raise ArtifactError(str(error).replace(str(folder), str(found))) from error


@contextmanager
def unpacking_once() -> Iterator[None]:
    """Let all calls of `located` in the block unpack an archive once, and keep it until the end."""
    with ExitStack() as stack:
        token = _kept.set((stack, {}))
        try:
            yield
        finally:
            _kept.reset(token)


@contextmanager
def _unpacked(archive: Path) -> Iterator[Path]:
    kept = _kept.get()
    if kept is None:
        with unpacked(archive) as folder:
            yield folder
        return
    stack, folders = kept
    if archive not in folders:
        folders[archive] = stack.enter_context(unpacked(archive))
    yield folders[archive]


def find_weights(path: Path) -> Path:
    """Return the file of weights that `path` is, or that is the only one in the folder `path`.

    Without such a file, that is the only archive in the folder. A file can be the index of several.

    Raises:
        ArtifactError: there is none, or there are several.
    """
    if _ADDRESS.match(str(path)):
        raise ArtifactError(
            f"{path} is an address: expected a file on this machine; download it first, and name "
            "it or its folder"
        )
    if not path.is_dir():
        return path
    folder = path
    for _ in range(_MOST_LEVELS):
        entries = sorted(islice(folder.iterdir(), _MOST_ENTRIES))
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        if (found := _file_of(visible)) is not None:
            return found
        folders = [entry for entry in visible if entry.is_dir()]
        if len(folders) != 1:
            break
        folder = folders[0]
    shown = ", ".join(entry.name for entry in visible[:10]) or "nothing"
    raise ArtifactError(
        f"{path}: expected a file of weights ({', '.join(SUFFIXES)}) or an archive "
        f"({', '.join(ARCHIVES)}) in it, got {shown}"
    )


def _file_of(entries: list[Path]) -> Path | None:
    """Return the file of weights among the entries of a folder, or the archive; None without."""
    by_name = {entry.name: entry for entry in entries}
    preferred = [by_name[name] for name in _OF_HUB if name in by_name]
    if not preferred and all(name in by_name for name in _OF_ARTIFACT):
        preferred = [by_name[_OF_ARTIFACT[0]]]
    if preferred:
        return preferred[0]
    for suffixes in (SUFFIXES, ARCHIVES):
        found = [entry for entry in entries if entry.name.lower().endswith(suffixes)]
        indexes = [name for name in by_name if name.endswith(INDEX_SUFFIX)]
        parts = [match for entry in found if (match := _SHARD.fullmatch(entry.name))]
        if parts and len(parts) == len(found) and len(indexes) == 1:
            return by_name[indexes[0]]
        if parts and len({match[1] for match in parts}) == 1 and not indexes:
            raise ArtifactError(
                f"{found[0].parent}: the weights are in {len(parts)} files, but "
                f"{parts[0][1]}{parts[0][2]}{INDEX_SUFFIX} is missing: copy the whole folder again"
            )
        if len(found) > 1:
            shown = ", ".join(entry.name for entry in found[:10])
            kind = "file of weights" if suffixes is SUFFIXES else "archive"
            raise ArtifactError(f"{found[0].parent}: expected one {kind}, got {shown}; name one")
        if found:
            return found[0]
    return None


def describe(weights: Path) -> Description:
    """Read what the folder of a file of weights says of it; nothing for a file that stands alone.

    Raises:
        ArtifactError: a file of the folder is damaged, or says something impossible.
    """
    if weights.name not in _OF_HUB or not (weights.parent / _CONFIG).exists():
        return Description()
    config = _read(weights.parent / _CONFIG)
    try:
        if isinstance(config.get("pretrained_cfg"), Mapping):
            found = _of_timm(config, config["pretrained_cfg"])
        else:
            path = weights.parent / _PREPROCESSOR
            found = _of_transformers(config, _read(path) if path.exists() else {})
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise ArtifactError(f"{weights.parent}: {_CONFIG} or {_PREPROCESSOR}: {error}") from error
    license_name = found.pop("license", "") or _license_of_card(weights.parent / _CARD)
    return Description(**found, license=license_name)


def description_of(metadata: Mapping[str, str], path: Path) -> Description:
    """Return the description in the metadata of a file that this project wrote.

    Raises:
        ArtifactError: it says something impossible.
    """
    try:
        said = {
            name: json.loads(metadata[name])
            for name in ("mean", "std", "input_size", "resize", "labels")
            if name in metadata
        }
        found: dict[str, Any] = {"labels": _labels(said.get("labels"))}
        if "mean" in said and "std" in said:
            found |= _normalization(said["mean"], said["std"], 1.0)
        found |= {key: _size(key, said[key]) for key in ("input_size", "resize") if key in said}
    except (TypeError, ValueError, RecursionError, ArithmeticError, AttributeError) as error:
        raise ArtifactError(f"{path}: its metadata: {error}") from error
    if metadata.get("interpolation") in _INTERPOLATIONS.values():
        found["interpolation"] = metadata["interpolation"]
    return Description(metadata.get("architecture", "")[:100], **found)


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    try:
        content = json.loads(_bytes_of(path))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected a JSON object, got {error}") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _bytes_of(path: Path) -> bytes:
    file = RegularFile(path)
    try:
        if file.size > _MOST_CONFIG_BYTES:
            raise ValueError(f"{file.size} bytes; at most {_MOST_CONFIG_BYTES} are read")
        return file.read(0, file.size)
    finally:
        file.close()


def _license_of_card(path: Path) -> str:
    """Return the license in the header of a model card, or ""."""
    if not path.exists():
        return ""
    try:
        text = _bytes_of(path).decode("utf-8", "replace")
    except ValueError:
        return ""
    header = text.split("\n---", 1)[0] if text.startswith("---") else ""
    match = _LICENSE.search(header)
    return match[1] if match else ""


def _of_timm(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"architecture": str(config.get("architecture", ""))[:100]}
    if "input_size" in given:
        found["input_size"] = _size("input_size", list(given["input_size"])[-1])
    if "crop_pct" in given and "input_size" in found:
        found["resize"] = _size("crop_pct", math.floor(found["input_size"] / given["crop_pct"]))
    if given.get("interpolation") in _INTERPOLATIONS.values():
        found["interpolation"] = given["interpolation"]
    if "mean" in given and "std" in given:
        found |= _normalization(given["mean"], given["std"], 255.0)
    found["labels"] = _labels(config.get("label_names") or given.get("label_names"))
    found["license"] = str(given.get("license") or "")[:60]
    return found


def _of_transformers(config: Mapping[str, Any], images: Mapping[str, Any]) -> dict[str, Any]:
    names = config.get("architectures") or [config.get("model_type", "")]
    found: dict[str, Any] = {"architecture": str(names[0])[:100]}
    size, crop = images.get("size"), images.get("crop_size")
    resize = _side(size)
    if images.get("do_center_crop") and crop is not None:
        found |= {"input_size": _side(crop), "resize": resize}
    elif resize is not None:
        found["input_size"] = resize
        share = images.get("crop_pct")  # ConvNextImageProcessor, which ResNets have
        found["resize"] = _size("crop_pct", math.floor(resize / share)) if share else resize
    if images.get("resample") in _INTERPOLATIONS:
        found["interpolation"] = _INTERPOLATIONS[images["resample"]]
    if images.get("do_normalize", True) and "image_mean" in images and "image_std" in images:
        scale = 1.0 / images.get("rescale_factor", 1 / 255)
        found |= _normalization(images["image_mean"], images["image_std"], scale)
    numbered = config.get("id2label")
    if isinstance(numbered, Mapping) and len(numbered) <= _MOST_CLASSES:
        names = [numbered.get(str(index)) for index in range(len(numbered))]
        if not all(re.fullmatch(r"LABEL_\d+", str(name)) for name in names):  # Transformers' own
            found["labels"] = _labels(names)
    return found


def _side(size: Any) -> int | None:
    """Return the side in one of the forms in which Transformers writes a size."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    return None if size is None else _size("size", size)


def _size(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MOST_SIZE:
        raise ValueError(f"{name}: expected 1 to {_MOST_SIZE} pixels, got {str(value)[:40]}")
    return value


def _normalization(mean: Any, std: Any, scale: float) -> dict[str, tuple[float, ...]]:
    means, deviations = (
        tuple(round(float(v) * scale, 6) for v in values) for values in (mean, std)
    )
    is_sound = len(means) == len(deviations) and len(means) in (1, 3)
    if not is_sound or not all(map(math.isfinite, (*means, *deviations))) or min(deviations) <= 0:
        raise ValueError(
            f"expected 1 or 3 means and positive deviations, got {means}, {deviations}"
        )
    return {"mean": means, "std": deviations}


def _labels(names: Any) -> tuple[str, ...]:
    """Return class names; () if there are none, or they are not different texts."""
    if not isinstance(names, list) or len(names) > _MOST_CLASSES:
        return ()
    texts = tuple(names)
    is_sound = all(isinstance(name, str) and 0 < len(name) <= 200 for name in texts)
    return texts if is_sound and len(set(texts)) == len(texts) else ()
