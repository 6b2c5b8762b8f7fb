"""The model ids of JumpStart's image classifiers, and the backbones that stand for them here.

In: the value of the hyperparameter `model_id`, an id or the handle of a model on TensorFlow Hub.
Out: the row of model_ids.csv. Its ids and handles are those of aws/sagemaker-python-sdk,
doc/algorithms/vision/image_classification_tensorflow.rst and image_classification_pytorch.rst, and
of the developer guide's IC-TF-Models.md.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from image_classification.backends import catalog, names
from image_classification.backends.base import Backbone
from image_classification.backends.pretrained import has_weights
from image_classification.errors import BackendError, HyperparameterError

TABLE = Path(__file__).with_name("model_ids.csv")

_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?tfhub\.dev/", re.IGNORECASE)
_VERSION = re.compile(r"/\d+/?$")


@dataclass(frozen=True)
class ModelId:
    """A row of the table.

    Attributes:
        model_id: JumpStart's id.
        handle: of the model on TensorFlow Hub, without address and version, or of PyTorch's hub.
        exact: backbones with the same architecture, the preferred one first; a backend may lack
            them.
        width: factor of the channels, or "".
        input_size: side of its images in pixels.
        mean, std: normalization of the exact backbones in units of 0–255, or ().
        weights: "package" in the image; "file": bring a file for the backbone; "SavedModel": only
            as the model's own SavedModel in the channel `model`; "none".
        nearest: backbones to use where there is no exact one; every backend has the last one.
    """

    model_id: str
    handle: str
    exact: tuple[str, ...]
    width: str
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str
    nearest: tuple[str, ...]


@lru_cache(1)
def table() -> Mapping[str, ModelId]:
    """Return all rows by their ids, in the order of the file."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = (_row(entry) for entry in csv.DictReader(file))
        return {row.model_id: row for row in rows}


def _row(entry: Mapping[str, str]) -> ModelId:
    return ModelId(
        entry["model_id"],
        entry["handle"],
        tuple(entry["exact"].split()),
        entry["width"],
        int(entry["input"]),
        tuple(map(float, entry["mean"].split())),
        tuple(map(float, entry["std"].split())),
        entry["weights"],
        tuple(entry["nearest"].split()),
    )


def find(text: str) -> ModelId:
    """Return the row of an id or a handle; HyperparameterError with the nearest ids."""
    plain = text.strip()
    if plain.lower() in table():
        return table()[plain.lower()]
    asked = _handle_key(plain)
    for row in table().values():
        if _handle_key(row.handle) == asked:
            return row
    begun = [model_id for model_id in table() if model_id.startswith(plain.lower())]
    cores = {_core(model_id): model_id for model_id in table()}
    near = difflib.get_close_matches(_core(plain.lower()), cores, n=3)
    close = begun[:3] or [cores[core] for core in near]
    hint = f"did you mean {' or '.join(close)}?" if close else "expected an image classifier's id;"
    raise HyperparameterError(
        f"model_id={text!r}: {hint} image-classification describe --model-ids lists all "
        f"{len(table())}; or set backbone"
    )


def _core(model_id: str) -> str:
    """Return an id without what most ids share."""
    return re.sub(r"^(?:tensorflow|pytorch)-ic-|-classification-\d$", "", model_id)


def _handle_key(handle: str) -> str:
    """Return what the handles of one model share: without address, publisher, use and version.

    Models have moved from one publisher to another.
    """
    plain = _VERSION.sub("", _ADDRESS.sub("", handle.strip().lower()))
    plain = re.sub(r"[/_](?:classification|feature[_-]vector)$", "", plain)
    return plain.partition("/")[2] or plain


def choose_backbone(row: ModelId, backend: str, weights_dir: Path) -> Backbone:
    """Return the exact backbone of a backend, one with weights on this machine if there is any.

    Raises:
        HyperparameterError: the backend has none; the message names the nearest backbone, and the
            backend that has an exact one.
    """
    rows = _available(row.exact, backend)
    if rows:
        return next((found for found in rows if has_weights(found, weights_dir)), rows[0])
    near = _available(row.nearest, backend)[0].name
    ways = [f"set backbone={near}, the nearest one, instead of model_id"]
    elsewhere = [(name, found.name) for name in names() for found in _available(row.exact, name)]
    # timm can be asked only where it is installed, which an image of another backend has not.
    elsewhere += [("torch", name) for name in row.exact if name.startswith("timm/")]
    if elsewhere:
        other, name = elsewhere[0]
        where = f"use backend={other}" if other != backend else "install timm"
        ways.append(f"{where}, which has it ({name})")
    if row.weights != "none" and row.model_id.startswith("tensorflow"):
        ways.append(
            "give the model's SavedModel in the channel model to a job with backend=tensorflow, "
            "which fine-tunes it as it is"
        )
    raise HyperparameterError(
        f"model_id={row.model_id}: backend={backend} has no network of this architecture: "
        + "; or ".join(ways)
    )


def _available(backbones: tuple[str, ...], backend: str) -> list[Backbone]:
    found = []
    for name in backbones:
        try:
            found.append(catalog(backend).find(name))
        except BackendError:
            continue
    return found
