"""The model artifact: the folder that becomes model.tar.gz, written once, verified at every load.

    manifest.json       format version, interface, backend, backbone, classes, input, metrics,
                        hyperparameters, versions, and size and SHA-256 of every other file
    labels.json         class names in index order
    class_label_to_prediction_index.json   name → index, as the TensorFlow built-in writes it
    labels_info.json    {"labels": [names]}, which JumpStart's inference script reads
    preprocessing.json  the evaluation preprocessing
    model.onnx          uint8 N·H·W·C images → float32 (N, classes) probabilities; since version 2
                        also features and a class activation map, where the network has them, and
                        `metadata_of` the model, so that the file is usable alone
    weights.safetensors neutral weights of the best epoch, for incremental training
    weights-last.safetensors   weights of the last epoch, if the job keeps them
    feature-index.bin   features of training images, see `feature_index`
    report.html, model-card.md

No links, no pickle, no code. Version 1 is read too.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from image_classification.archive import UnpackLimits, unpacked
from image_classification.errors import LFS_CURE, LFS_POINTER, ArtifactError, DataError
from image_classification.feature_index import INDEX_FILE, MOST_BYTES, FeatureIndex
from image_classification.files import named_in_errors, write_text, written_together
from image_classification.foreign_models import describe_file, describe_folder
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.records.tfrecord import encode_field

FORMAT_VERSION = 2
_READ_VERSIONS = (1, FORMAT_VERSION)
MANIFEST_FILE = "manifest.json"
PREPROCESSING_FILE = "preprocessing.json"
PREDICTION_INDEX_FILE = "class_label_to_prediction_index.json"
LABELS_INFO_FILE = "labels_info.json"
MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.safetensors"
LAST_WEIGHTS_FILE = "weights-last.safetensors"
REPORT_FILE = "report.html"
MODEL_CARD_FILE = "model-card.md"

_MOST_GRAPH = 2**31 - 1  # bytes that Protocol Buffers allow in one message
_MOST_JSON = 16 * 2**20  # bytes; the names of a million classes
_MOST_PIXELS = 2**24  # of the model's input, 48 MiB of RGB
_MOST_SIDE = 2**16  # pixels of a side: what a resize costs grows with it, however thin the image

FileWriter = Callable[[Path], object]
"""Writes one file of the artifact to the given (temporary) path."""


@dataclass(frozen=True)
class GraphFile:
    """The file of a graph and its entry in the artifact: all that a process needs to run it.

    Attributes:
        path: of the file.
        size: bytes of its content.
        sha256: of its content.
        input_shape: (height, width, channels) of an image.
        classes: number of probabilities for an image.
    """

    path: str
    size: int
    sha256: str
    input_shape: tuple[int, int, int]
    classes: int

    def read(self) -> bytes:
        """Return the verified content: the file cannot change between check and use.

        Raises:
            ArtifactError: the file is missing, or has changed since the artifact was written.
        """
        listed = {"bytes": self.size, "sha256": self.sha256}
        return _read_verified(Path(self.path), listed, _MOST_GRAPH)


@dataclass(frozen=True)
class Artifact:
    """A verified artifact.

    Attributes:
        directory: where its files are.
        manifest: the parsed manifest.json.
        labels: class names.
        preprocessing: turns an encoded image into the graph's input.
    """

    directory: Path
    manifest: Mapping[str, Any]
    labels: LabelMap
    preprocessing: Preprocessing

    @property
    def model_file(self) -> Path:
        """The ONNX graph."""
        return self.directory / MODEL_FILE

    @property
    def graph_file(self) -> GraphFile:
        """The ONNX graph and what the artifact says about it."""
        listed, size = self.manifest["files"][MODEL_FILE], self.preprocessing
        shape = (size.height, size.width, size.channels)
        return GraphFile(
            str(self.model_file), listed["bytes"], listed["sha256"], shape, len(self.labels)
        )

    def read_index(self) -> FeatureIndex | None:
        """Return the features of training images; None if the artifact has none.

        Raises:
            ArtifactError: the file has changed, or does not fit the manifest.
        """
        listed = self.manifest["files"].get(INDEX_FILE)
        if listed is None:
            return None
        content = _read_verified(self.directory / INDEX_FILE, listed, MOST_BYTES)
        return FeatureIndex.read(self.manifest.get("feature_index"), content)

    @property
    def is_multi_label(self) -> bool:
        """Whether each class has its own probability; otherwise they add up to 1."""
        return bool(self.manifest.get("multi_label", False))

    @property
    def interface(self) -> str:
        """mxnet or tensorflow: decides the server's default answer."""
        return str(self.manifest["interface"])


def write_artifact(
    directory: Path,
    description: Mapping[str, Any],
    labels: LabelMap,
    preprocessing: Preprocessing,
    writers: Mapping[str, FileWriter],
) -> Artifact:
    """Write a whole artifact into `directory`, the manifest last.

    Args:
        directory: created if absent; all files appear, or it is left as it was.
        description: more entries of the manifest, which also has classes, input and file hashes;
            at least `interface`, `backend` and `backbone`.
        labels: class names in index order.
        preprocessing: evaluation preprocessing.
        writers: file name → its writer; at least `model.onnx` and `weights.safetensors`.
    """
    texts = {
        PREDICTION_INDEX_FILE: json.dumps(
            labels.to_prediction_index(), ensure_ascii=False, indent=1
        ),
        LABELS_INFO_FILE: json.dumps({"labels": labels.names}),
        PREPROCESSING_FILE: json.dumps(preprocessing.to_json(), indent=1),
    }
    with written_together(directory, MANIFEST_FILE) as partial:
        labels.write(partial(LABELS_FILE))
        for name, text in texts.items():
            write_text(partial(name), text)
        for name, write in writers.items():
            with named_in_errors(directory / name):
                write(partial(name))
        with named_in_errors(directory / MODEL_FILE), partial(MODEL_FILE).open("ab") as graph:
            graph.write(_encoded(metadata_of(description, labels, preprocessing)))
        names = sorted([LABELS_FILE, *texts, *writers])
        manifest = {
            "format_version": FORMAT_VERSION,
            **description,
            "classes": len(labels),
            "input": {
                "name": "images",
                "dtype": "uint8",
                "shape": [None, preprocessing.height, preprocessing.width, preprocessing.channels],
            },
            "files": {name: _fingerprint(partial(name)) for name in names},
        }
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        write_text(partial(MANIFEST_FILE), text)
    return read_artifact(directory)


_METADATA = 14  # `metadata_props` of ModelProto: name and value, fields 1 and 2 (onnx.proto)


def metadata_of(
    description: Mapping[str, Any], labels: LabelMap, preprocessing: Preprocessing
) -> dict[str, str]:
    """Return what `model.onnx` says of itself, all as text.

    `labels` and `preprocessing` are the JSON of a list and of preprocessing.json; the others are
    those of the manifest.
    """
    known = {
        name: str(description[name])
        for name in ("backbone", "interface", "license", "source", "started_from", "created")
        if description.get(name)
    }
    versions = description.get("versions", {})
    return {
        "format_version": str(FORMAT_VERSION),
        "version": str(versions.get("sagemaker-image-classification", "")),
        "labels": json.dumps(labels.names, ensure_ascii=False),
        "preprocessing": json.dumps(preprocessing.to_json()),
        "multi_label": json.dumps(bool(description.get("multi_label", False))),
        **known,
    }


def _encoded(metadata: Mapping[str, str]) -> bytes:
    """Return metadata as fields that may follow those of a model (Protocol Buffers, Encoding)."""
    texts = ((n.encode(), v.encode("utf-8", "backslashreplace")) for n, v in metadata.items())
    return b"".join(
        encode_field(_METADATA, encode_field(1, name) + encode_field(2, value))
        for name, value in texts
    )


def read_artifact(directory: Path) -> Artifact:
    """Read and verify the artifact in `directory`.

    Raises:
        ArtifactError: not an artifact, another format version, or a file that is missing, was
            changed or contradicts the manifest; the message names the file.
    """
    manifest = _read_manifest(directory)
    for name, expected in manifest["files"].items():
        _verify(directory / name, expected)
    try:
        _check_size(directory / LABELS_FILE)
        labels = LabelMap.read(directory / LABELS_FILE)
        preprocessing = Preprocessing.from_json(_read_json(directory / PREPROCESSING_FILE))
    except (DataError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{directory}: {error}") from error
    if preprocessing.height * preprocessing.width > _MOST_PIXELS:
        raise ArtifactError(
            f"{directory}: expected an input of at most {_MOST_PIXELS} pixels, got height "
            f"{preprocessing.height} and width {preprocessing.width}"
        )
    sides = {name: getattr(preprocessing, name) for name in ("height", "width", "resize")}
    for name, side in sides.items():
        if side is not None and side > _MOST_SIDE:
            raise ArtifactError(
                f"{directory}: expected a {name} of at most {_MOST_SIDE} pixels in "
                f"{PREPROCESSING_FILE}, got {str(side)[:20]}"
            )
    if len(labels) != manifest["classes"]:
        raise ArtifactError(
            f"{directory}: labels.json has {len(labels)} names, but the manifest has "
            f"{manifest['classes']} classes"
        )
    return Artifact(directory, manifest, labels, preprocessing)


@contextmanager
def open_artifact(path: Path, limits: UnpackLimits | None = None) -> Iterator[Artifact]:
    """The artifact in a folder, or in an archive that is unpacked while the block runs.

    It can be below a top folder, or in the only archive in the folder.
    """
    if path.is_file() and (other := describe_file(path)):
        raise ArtifactError(f"{path}: expected a model.tar.gz or its folder, found {other}")
    with unpacked(path, limits or UnpackLimits(), (MANIFEST_FILE,)) as folder:
        try:
            yield read_artifact(folder)
        except ArtifactError as error:  # the user knows the archive, not where it was unpacked
            if folder.is_relative_to(path):
                raise
            raise ArtifactError(str(error).replace(str(folder), str(path))) from error


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_FILE
    try:
        manifest = _read_json(path)
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} is missing: expected an artifact written by the train command, found "
            f"{describe_folder(directory, MANIFEST_FILE)}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a manifest: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f'{path}: not a manifest: it has no "files"')
    version = manifest.get("format_version")
    if version not in _READ_VERSIONS or isinstance(version, bool | float):  # true and 1.0 equal 1
        expected = " or ".join(map(str, _READ_VERSIONS))
        raise ArtifactError(
            f"{path}: expected format version {expected}, got {version!r}; use the package version "
            "that wrote the artifact"
        )
    missing = {"interface", "backend", "backbone", "classes"} - set(manifest)
    missing |= {MODEL_FILE, LABELS_FILE, PREPROCESSING_FILE} - set(manifest["files"])
    if missing:
        raise ArtifactError(
            f"{path}: expected {', '.join(sorted(missing))} in the manifest, found none"
        )
    classes = manifest["classes"]
    if not isinstance(classes, int) or isinstance(classes, bool):
        raise ArtifactError(f"{path}: classes must be a whole number, got {repr(classes)[:200]}")
    metrics = manifest.get("metrics") or {}
    if not isinstance(metrics, dict) or not isinstance(metrics.get("validation", {}), dict):
        found = repr(metrics)[:200]
        raise ArtifactError(f"{path}: metrics must be an object, with objects in it, got {found}")
    outside = [name for name in manifest["files"] if Path(name).name != name]
    if outside:
        raise ArtifactError(
            f"{path}: expected only names of files in this folder, got {outside[0]!r}"
        )
    return manifest


def _read_json(path: Path) -> Any:
    _check_size(path)
    text = path.read_text("utf-8")
    if text.startswith("version https://git-lfs"):
        raise ArtifactError(f"{path}: {LFS_POINTER}: {LFS_CURE}")
    return json.loads(text)


def _check_size(path: Path) -> None:
    """Check that a JSON file is a regular one and not so large that parsing fills the memory."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_JSON:
        raise ArtifactError(
            f"{path}: expected a file of at most {_MOST_JSON >> 20} MiB, got "
            + (
                f"{found.st_size} bytes"
                if stat.S_ISREG(found.st_mode)
                else "something other than a regular file"
            )
        )


def _open_listed(path: Path) -> BinaryIO:
    """Open a file that the manifest lists: a regular one, and no link to anything else."""
    try:
        # Without waiting: a FIFO in the file's place may have no writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: listed in the manifest, but missing from the artifact: {error}"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path}: listed in the manifest, but not a regular file")
    return os.fdopen(descriptor, "rb")


def _fingerprint(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with _open_listed(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _verify(path: Path, expected: object) -> None:
    """Check that the file is a regular one and matches the manifest."""
    if not isinstance(expected, dict) or type(expected.get("bytes")) is not int:
        raise ArtifactError(
            f"{path}: expected its bytes and sha256 in the manifest, got {expected!r}"[:500]
        )
    with _open_listed(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size != expected["bytes"]:  # without reading it: it can have any size
        _compare(path, expected, {"bytes": size})
    _compare(path, expected, _fingerprint(path))


def _read_verified(path: Path, listed: Mapping[str, Any], most: int) -> bytes:
    """Return the content of a file of at most `most` bytes that matches the manifest."""
    if listed["bytes"] > most:
        raise ArtifactError(f"{path}: expected at most {most} bytes, got {listed['bytes']}")
    with _open_listed(path) as file:
        content = file.read(listed["bytes"] + 1)
    _compare(path, listed, {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return content


def _compare(path: Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    if found != expected:
        raise ArtifactError(
            f"{path}: changed since it was written: expected {expected['bytes']} bytes with "
            f"SHA-256 {str(expected.get('sha256'))[:12]}…, found {found['bytes']} bytes"
            + (f" with {found['sha256'][:12]}…" if "sha256" in found else "")
        )
