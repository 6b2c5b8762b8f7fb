"""Pretrained weights of backbones on this machine, under neutral names, and where they are from.

In: a row of a catalog and a file, a folder, or the place where they are looked for. Out: a
`Pretrained`. Nothing is downloaded, and nothing in a file is executed.
"""

import importlib.util
import json
import re
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from image_classification.backends import base
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.conversion import NEUTRAL, Shapes, convert
from image_classification.backends.networks import is_shared
from image_classification.errors import ArtifactError, BackendError
from image_classification.weights import opened
from image_classification.weights.folder import (
    ARCHIVES,
    SUFFIXES,
    Description,
    describe,
    description_of,
    find_weights,
    located,
)
from image_classification.weights.shards import sha256_of
from image_classification.weights.tensors import TensorFile

UNKNOWN = "unknown"
"""The source or the license of weights about which their file says nothing."""

SUBSTITUTE = "efficientnet_lite0"
"""The backbone that a job trains in place of one without weights."""

# The start of the SHA-256 in the names of PyTorch's files, which is not a date; Gluon's have SHA-1.
_HASH_IN_NAME = re.compile(r"-(?!(?:19|20)\d\d[01]\d[0-3]\d\.)([0-9a-f]{8,64})\.(?:pth|pt)")
_MOST_NAMES = 10_000  # in a folder of weights


@dataclass(frozen=True)
class Pretrained:
    """Weights of a backbone.

    Attributes:
        weights: neutral name → float32; without `head.*` if the file has no head.
        source: an address or a sentence; UNKNOWN if nothing says it.
        license: the same.
        file: name of the file that they were read from first, before any conversion.
        sha256: of that file.
        layout: of its names.
        description: of the images and the classes.
        unused: names of tensors in the file that the backbone does not need.
    """

    weights: base.State
    source: str
    license: str
    file: str
    sha256: str
    layout: str
    description: Description
    unused: tuple[str, ...] = ()

    @property
    def state(self) -> base.State:
        """The weights, by the keys of an engine's state."""
        return {base.WEIGHT_PREFIX + name: array for name, array in self.weights.items()}

    def metadata(self, backbone: str) -> dict[str, str]:
        """Return the metadata of a safetensors file with these weights."""
        found: dict[str, Any] = {}
        for entry in fields(Description):
            value = getattr(self.description, entry.name)
            if value not in (None, (), "") and entry.name != "license":
                found[entry.name] = value if isinstance(value, str) else json.dumps(value)
        return found | {
            "backbone": backbone,
            "source": self.source,
            "license": self.license,
            "file": self.file,
            "sha256": self.sha256,
            "layout": self.layout,
        }


def read_weights(path: Path, backbone: base.Backbone, shapes: Shapes | None = None) -> Pretrained:
    """Read the weights of a backbone from a public file, or a folder or archive that holds one.

    Args:
        path: of the file, the folder or the archive.
        backbone: whose weights they should be.
        shapes: of the tensors of a backbone that is not shared, head included; without them, names
            and shapes of such a backbone are not checked, which the engine does later.

    Raises:
        ArtifactError: no such file, a damaged one, or the weights of another network.
    """
    with located(path) as weights:
        digest = _checked_hash(weights)
        with opened(weights) as (_, tensors):
            if is_shared(backbone.name) or shapes is not None:
                converted = convert(tensors, backbone.name, shapes)
                named, layout, unused = converted.weights, converted.layout, converted.unused
            else:
                named, layout, unused = _unchecked(tensors), NEUTRAL, ()
            description = describe(weights)
            said = tensors.metadata if layout == NEUTRAL else {}
            if said:
                description = description_of(said, weights)
            return Pretrained(
                weights=named,
                source=said.get("source") or UNKNOWN,
                license=said.get("license") or description.license or UNKNOWN,
                file=said.get("file") or weights.name,
                sha256=said.get("sha256") or digest,
                layout=said.get("layout") or layout,
                description=description,
                unused=unused,
            )


def _unchecked(tensors: TensorFile) -> base.State:
    try:
        return {name: tensor.numbers() for name, tensor in tensors.tensors.items()}
    except ValueError as error:
        raise ArtifactError(f"{tensors.path}: a tensor {error}") from error


def _checked_hash(path: Path) -> str:
    """Return the SHA-256 of a file, whose name may have its beginning, as PyTorch writes it."""
    digest, match = sha256_of(path), _HASH_IN_NAME.search(path.name)
    if match and not digest.startswith(match[1]):
        raise ArtifactError(
            f"{path} was altered: its SHA-256 begins with {digest[: len(match[1])]}, but its "
            f"name says {match[1]}; copy, download or install it again"
        )
    return digest


def pretrained_state(backbone: base.Backbone, weights_dir: Path | None) -> base.State | None:
    """Read the weights that `find_pretrained` finds, or those of the file `weights_dir`.

    Returns:
        `weight/<neutral name>` → float32 array; None if there are none.

    Raises:
        ArtifactError: the file is damaged, altered or of another network.
    """
    is_file = weights_dir is not None and weights_dir.is_file()
    path = weights_dir if is_file else find_pretrained(backbone, weights_dir)
    if path is None or (path.suffix != ".safetensors" and not is_shared(backbone.name)):
        return None
    return read_weights(path, backbone).state


def find_pretrained(backbone: base.Backbone, weights_dir: Path | None) -> Path | None:
    """Return the weights of a backbone on this machine, or None.

    They are `<weights_dir>/<backbone>` with an ending of SUFFIXES or ARCHIVES, a folder of that
    name which holds such a file, or the file in the backbone's installed package. No other file
    decides: a note or a license next to them has another ending.
    """
    if weights_dir is not None:
        place = weights_dir / backbone.name
        for suffix in (SUFFIXES[0], ".weights.h5", *SUFFIXES[1:], *ARCHIVES):
            path = place.with_name(place.name + suffix)
            if path.is_file():
                return path
        if place.is_dir():
            return find_weights(place)
    return _find_installed(backbone)


def has_weights(backbone: base.Backbone, weights_dir: Path) -> bool:
    """Return whether `find_pretrained` finds weights; only reading them shows if they are intact.

    Raises:
        ArtifactError: the folder of the backbone holds several files of weights, or none.
    """
    return find_pretrained(backbone, weights_dir) is not None


def similar_files(backbone: base.Backbone, weights_dir: Path) -> list[str]:
    """Return the files of weights in a folder whose names begin as the backbone's does."""
    try:
        names = [path.name for path in islice(weights_dir.iterdir(), _MOST_NAMES)]
    except OSError:
        return []
    family = re.split(r"[^a-z0-9]", backbone.name.rpartition("/")[2])[0]
    return sorted(n for n in names if n.startswith(family) and n.lower().endswith(SUFFIXES))


def _find_installed(backbone: base.Backbone) -> Path | None:
    """Find the weights file in the backbone's package without importing the package."""
    if backbone.weights_package is None or backbone.weights_file is None:
        return None
    spec = importlib.util.find_spec(backbone.weights_package)
    folders = (spec.submodule_search_locations if spec else None) or ()
    for folder in folders:
        for path in sorted(Path(folder).glob(backbone.weights_file)):
            return path
    return None


def described(path: Path) -> Description:
    """Return what a file of weights, or its folder, says of the images and the classes.

    Raises:
        ArtifactError: see `read_weights`.
    """
    with located(path) as weights:
        if weights.suffix != ".safetensors":
            return describe(weights)
        with opened(weights) as (_, tensors):
            is_ours = "layout" in tensors.metadata
            return description_of(tensors.metadata, weights) if is_ours else describe(weights)


def described_row(row: base.Backbone, said: Description) -> base.Backbone:
    """Return a backbone's row with what its weights say of the images."""
    if said.mean:
        row = replace(row, mean=said.mean, std=said.std)
    if said.input_size:
        row = replace(row, input_size=said.input_size, resize=said.resize or said.input_size)
    return replace(row, interpolation=said.interpolation or row.interpolation)


def of_package(backbone: base.Backbone, path: Path, found: Pretrained) -> Pretrained:
    """Return weights with the source and license of their package, if they are from it."""
    if path != _find_installed(backbone):
        return found
    return replace(found, source=backbone.source, license=backbone.license)


def read_pretrained(
    backend: base.EngineModule,
    backbone: base.Backbone,
    folder: Path,
    file: Path | None = None,
    engine: base.Engine | None = None,
) -> Pretrained:
    """Return the weights of a backbone, head included.

    Args:
        backend: whose framework builds the backbone.
        backbone: its row.
        folder: of this machine's weights.
        file: a public file of its weights; None looks for them on this machine.
        engine: of the backbone, if there is one already.

    Raises:
        BackendError: there are none on this machine; the message has the remedies.
        ArtifactError: the file is damaged or of another network.
    """
    path = file or find_pretrained(backbone, folder)
    if path is None:
        raise no_weights(backbone, folder)
    with located(path) as weights:
        if not _is_keras(weights, backbone):
            shapes = None if is_shared(backbone.name) else _shapes(backend, backbone, engine)
            return of_package(backbone, path, read_weights(weights, backbone, shapes))
        state = backend.pretrained_state(backbone, weights) or {}
        named = {name.removeprefix(base.WEIGHT_PREFIX): array for name, array in state.items()}
        digest = _checked_hash(weights)
        return Pretrained(named, UNKNOWN, UNKNOWN, weights.name, digest, "Keras", Description())


def _is_keras(path: Path, backbone: base.Backbone) -> bool:
    """Return whether only Keras can read the weights, which then are not under names of ours."""
    return path.suffix in (".h5", ".hdf5") and backbone.name.startswith("keras/")


def _shapes(
    backend: base.EngineModule, backbone: base.Backbone, engine: base.Engine | None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a backbone that only its framework knows, head included."""
    shape = (3, backbone.input_size, backbone.input_size)
    spec = base.ModelSpec(backbone.name, 1, shape, *backbone.normalization(3))
    built = engine or backend.build(spec, base.OptimizerSpec(), base.World())
    shapes = {
        key.removeprefix(base.WEIGHT_PREFIX): tuple(array.shape)
        for key, array in built.state().items()
        if key.startswith(base.WEIGHT_PREFIX)
    }
    if engine is None:
        built.release()
    return shapes


def no_weights(backbone: base.Backbone, folder: Path) -> BackendError:
    """Return the error about missing weights, with every way in which they can arrive."""
    name = backbone.name
    found = similar_files(backbone, folder)
    near = f" ({folder} has {', '.join(found[:5])}, which are not named {name})" if found else ""
    package = (backbone.weights_package or "").replace("_", "-")
    remedies = [f"install {package}"] if package else []
    remedies += [
        "give the job a file of them in the channel weights or model (on a laptop: --weights FILE)",
        f"put {name}.safetensors into {folder} (image-classification weights {name} --from FILE)",
        f"build the image with them (make build PRETRAINED={name} WEIGHTS=DIR)",
    ]
    substitute = BACKBONES[SUBSTITUTE]
    if name != substitute.name and has_weights(substitute, folder):
        remedies.append(f"choose backbone={substitute.name}, which has them")
    return BackendError(
        f"there are no pretrained weights for {name} on this machine{near}: "
        f"{', '.join(remedies)}, or set use_pretrained_model=0; docs/bring-weights.md explains each"
    )
