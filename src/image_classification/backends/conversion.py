"""Turns the tensors of a public file into the weights of a backbone, under neutral names.

In: a `TensorFile` and a backbone. Out: every tensor of the backbone, checked against its shape
before its numbers are read. What does not fit is named by the file's own names, with the backbone
whose weights they are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from image_classification.backends import base, networks
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.networks.layouts import (
    Layout,
    layouts,
    neutral_array,
    source_names,
)
from image_classification.errors import ArtifactError
from image_classification.weights.tensors import Tensor, TensorFile

NEUTRAL = "neutral"
"""The layout of the files that this project writes."""

_SHOWN = 6  # names of one kind in a message
_LEAST_SHARE = 0.2  # of the names, from which on a message compares a file with a network
_MOST_CLASSES = 100_000  # of a head
_HEAD = ("head.weight", "head.bias")
_FRACTIONAL = (".weight", ".bias", ".running_mean", ".running_var")
_COUNTER = "num_batches_tracked"  # PyTorch's own; no other framework has it
_PREFIXES = re.compile(r"module\.|_orig_mod\.|model\.|net\.|network\.|backbone\.|resnetv2\d+_")
"""What the wrappers of PyTorch, and Gluon, put before each name."""

_TRUNK = "trunk."  # before our names of the tensors of a network that timm builds
_GLUON = "gluon/"
_GLUON_NORM = {"weight": "gamma", "bias": "beta"}
_TIMM_HEADS = ("fc", "classifier", "head.fc", "head", "last_linear", "head.l", "output")

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Converted:
    """The weights of a backbone from a file.

    Attributes:
        weights: neutral name → float32; without `head.*` if the file has no head.
        layout: of the file.
        unused: the file's names of tensors that the backbone does not need.
    """

    weights: base.State
    layout: str
    unused: tuple[str, ...]


def convert(file: TensorFile, backbone: str, shapes: Shapes | None = None) -> Converted:
    """Return the weights of `backbone` in a file.

    Args:
        file: open, so that its tensors can be loaded.
        backbone: its name.
        shapes: of the tensors of a backbone that is not shared, head included, by neutral name.

    Raises:
        ArtifactError: a tensor is missing, extra or misshapen, or its numbers cannot be used.
    """
    names = _Names.of(file)
    best = _best(backbone, names.tensors, shapes)
    if not best.fits:
        raise ArtifactError(_misfit(file, best, names))
    weights: base.State = {}
    for theirs, ours in best.names.items():
        try:
            numbers = names.tensors[theirs].numbers(ours.endswith(_FRACTIONAL))
            if ours.endswith("running_var") and numbers.min(initial=0) < 0:
                raise ValueError("has negative numbers, which a variance cannot have")
        except (ValueError, OSError) as error:
            raise ArtifactError(f"{file.path}: {names.own(theirs)[:120]} {error}") from error
        if best.layout.table is not None:
            numbers = neutral_array(backbone, best.layout.name, ours, numbers)
        weights[ours] = numbers
    return Converted(weights, best.layout.name, tuple(map(names.own, best.unused)))


def recognize(file: TensorFile) -> tuple[str, ...]:
    """Return the shared backbones whose weights a file holds; () if there is none."""
    tensors = _Names.of(file).tensors
    return tuple(name for name in BACKBONES if _best(name, tensors, None).fits)


@dataclass(frozen=True)
class _Names:
    """The tensors of a file by the names that its layout has, and how the file writes these."""

    tensors: Mapping[str, Tensor]
    prefix: str
    older: Mapping[str, str]

    @classmethod
    def of(cls, file: TensorFile) -> "_Names":
        tensors, prefix = file.tensors, ""
        while found := _PREFIXES.match(next(iter(tensors), "")):
            if not all(name.startswith(found[0]) for name in tensors):
                break
            tensors = {name.removeprefix(found[0]): tensor for name, tensor in tensors.items()}
            prefix += found[0]
        newer = {name: _newer_gluon(name) for name in tensors} if prefix.endswith("_") else {}
        if not newer:
            return cls(tensors, prefix, {})
        older = {new: old for old, new in newer.items()}
        return cls({newer[name]: tensor for name, tensor in tensors.items()}, prefix, older)

    def own(self, name: str) -> str:
        """Return how the file writes a name."""
        return self.prefix + self.older.get(name, name)


_GLUON_LAYER = re.compile(r"(?:stage(\d)_)?(conv|batchnorm|dense)(\d+)_(\w+)")
_GLUON_OUTSIDE = {
    "batchnorm0": "features.0",
    "conv0": "features.1",
    "batchnorm1": "features.2",
    "batchnorm2": "features.9",
    "dense0": "output",
}


def _newer_gluon(name: str) -> str:
    """Return Gluon's newer name of a tensor of ResNet v2 with bottlenecks.

    Older files number the layers of a stage: `stage2_conv4_weight` is `features.6.1.conv1.weight`.
    """
    match = _GLUON_LAYER.fullmatch(name)
    if match is None:
        return name
    stage, kind, number, tensor = match[1], match[2], int(match[3]), match[4]
    if stage is None:
        layer = _GLUON_OUTSIDE.get(f"{kind}{number}")
        return f"{layer}.{tensor}" if layer else name
    block, place = divmod(number, 3)
    if kind == "conv" and number == 3:  # the first block has a fourth convolution, in its shortcut
        return f"features.{int(stage) + 4}.0.downsample.{tensor}"
    if kind == "conv" and number > 3:
        block, place = divmod(number - 1, 3)
    layer = f"{'bn' if kind == 'batchnorm' else kind}{place + 1}"
    return f"features.{int(stage) + 4}.{block}.{layer}.{tensor}"


@dataclass(frozen=True)
class _Naming:
    """A layout of files of one backbone: their names with ours, and how their arrays lie."""

    name: str
    names: Mapping[str, str]
    table: Layout | None = None
    unused: frozenset[str] = frozenset()

    def is_unused(self, name: str) -> bool:
        """Return whether a network needs no such tensor."""
        if name in self.unused:
            return True
        return name.endswith(_COUNTER) or (self.table is not None and self.table.is_further(name))

    def shape(self, shape: Shape) -> Shape:
        """Return the shape that our tensor has in such files."""
        if self.table is None or not self.table.is_keras:
            return shape
        axes = (2, 3, 0, 1) if shape[1:2] == (1,) else {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(shape))
        return tuple(shape[axis] for axis in axes) if axes else shape

    def plain(self, ours: str, shape: Shape) -> Shape:
        """Return a shape in such files; that of a head which is a 1×1 convolution as a matrix's."""
        is_keras = self.table is not None and self.table.is_keras
        is_head = is_keras and ours == "head.weight" and len(shape) == 4
        return shape[2:] if is_head and shape[:2] == (1, 1) else shape


@dataclass(frozen=True)
class _Match:
    """How the names and shapes in a file fit one layout of one backbone."""

    backbone: str
    layout: _Naming
    names: Mapping[str, str]  # the layout's name → ours
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshapen: Mapping[str, str]  # the layout's name → what is wrong
    unused: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.extra or self.misshapen)

    @property
    def share(self) -> float:
        """Of the names on both sides, those that fit."""
        fitting = len(self.names) - len(self.missing) - len(self.misshapen)
        return fitting / (len(self.names) + len(self.extra))


def _best(backbone: str, tensors: Mapping[str, Tensor], shapes: Shapes | None) -> _Match:
    """Return the layout that fits best."""
    needed = _shapes_of(backbone, shapes)
    matches = [
        _match(backbone, one, needed, tensors) for one in _layouts(backbone, needed, tensors)
    ]
    return max(matches, key=lambda match: (match.fits, match.share))


@lru_cache(maxsize=64)
def _shared_shapes(backbone: str) -> Shapes:
    size = BACKBONES[backbone].input_size
    network = networks.network(backbone, (3, size, size))
    return {**network.tensor_shapes(), "head.weight": (0, network.width), "head.bias": (0,)}


def _shapes_of(backbone: str, shapes: Shapes | None) -> Shapes:
    """Return the shape of each tensor by neutral name; 0 stands for the number of classes."""
    if shapes is None:
        return _shared_shapes(backbone)
    return {name: (0, *shape[1:]) if name in _HEAD else shape for name, shape in shapes.items()}


@lru_cache(maxsize=64)
def _public_layouts(backbone: str) -> tuple[_Naming, ...]:
    tables = layouts(backbone).items()
    return tuple(_Naming(name, source_names(backbone, name), table) for name, table in tables)


def _layouts(backbone: str, needed: Shapes, tensors: Mapping[str, Tensor]) -> Iterator[_Naming]:
    """Yield each layout of files with the weights of a backbone."""
    yield _Naming(NEUTRAL, {name: name for name in needed})
    if backbone in BACKBONES:
        yield from _public_layouts(backbone)
    elif backbone.startswith("timm/"):
        names = {name.removeprefix(_TRUNK): name for name in needed if name.startswith(_TRUNK)}
        free = (head for head in _TIMM_HEADS if f"{head}.weight" in tensors.keys() - names.keys())
        head = next(free, _TIMM_HEADS[0])
        yield _Naming("timm", names | {f"{head}.weight": _HEAD[0], f"{head}.bias": _HEAD[1]})
    elif backbone.startswith(_GLUON):
        names = {_gluon_name(name, needed): name for name in needed.keys() - set(_HEAD)}
        head = "output"  # SqueezeNet's is a convolution, which ours does not use
        unused = frozenset(tensors.keys() & {f"{head}.0.weight", f"{head}.0.bias"})
        names |= {f"{head}.weight": _HEAD[0], f"{head}.bias": _HEAD[1]}
        yield _Naming("gluon", names, unused=unused)


def _gluon_name(ours: str, needed: Shapes) -> str:
    """Return the name in Gluon's files of a tensor of Gluon's network."""
    layer, _, tensor = ours.rpartition(".")
    is_norm = f"{layer}.running_mean" in needed
    return f"{layer}.{_GLUON_NORM.get(tensor, tensor)}" if is_norm else ours


def _match(backbone: str, layout: _Naming, needed: Shapes, tensors: Mapping[str, Tensor]) -> _Match:
    heads = [theirs for theirs, ours in layout.names.items() if ours in _HEAD]
    names = layout.names
    if not any(theirs in tensors for theirs in heads):  # some files have no head
        names = {theirs: ours for theirs, ours in names.items() if ours not in _HEAD}
    others = [name for name in tensors if name not in names]
    unused = [name for name in others if layout.is_unused(name)]
    misshapen = {}
    classes = set()
    for theirs, ours in names.items():
        if theirs not in tensors:
            continue
        shape, expected = layout.plain(ours, tensors[theirs].shape), layout.shape(needed[ours])
        if not _fits(shape, expected):
            wanted = str(expected).replace("0", "classes", ours in _HEAD)
            misshapen[theirs] = f"{shape} instead of {wanted}"
        elif ours in _HEAD:
            classes.add(shape[expected.index(0)])
    if len(classes) > 1:
        misshapen[heads[-1]] = "for another number of classes than the head's other tensor"
    return _Match(
        backbone,
        layout,
        names,
        missing=tuple(name for name in names if name not in tensors),
        extra=tuple(name for name in others if name not in unused),
        misshapen=misshapen,
        unused=tuple(unused),
    )


def _fits(shape: Shape, expected: Shape) -> bool:
    """Return whether a shape is the expected one, in which 0 is any number of classes."""
    return len(shape) == len(expected) and all(
        size == wanted if wanted else 0 < size <= _MOST_CLASSES
        for size, wanted in zip(shape, expected, strict=True)
    )


def _misfit(file: TensorFile, best: _Match, names: _Names) -> str:
    """Return the message about a file that is not of the backbone that it should be of."""
    parts = [f"{file.path}: these are not the weights of {best.backbone}"]
    others = [_best(name, names.tensors, None) for name in BACKBONES if name != best.backbone]
    nearest = max(others, key=lambda match: (match.fits, match.share))
    if nearest.fits:
        parts.append(f"they are {nearest.backbone}'s, so use that name")
    elif nearest.share > max(best.share, _LEAST_SHARE):
        parts.append(f"the nearest network is {nearest.backbone}, with {nearest.share:.0%} of them")
    if best.share < _LEAST_SHARE:
        found = _shown([names.own(name) for name in names.tensors])
        known = ", ".join(_sources(best.backbone))
        parts.append(f"the file has {found}; known for {best.backbone} are the names of {known}")
    else:
        wrong = [f"{names.own(name)} {reason}" for name, reason in best.misshapen.items()]
        lists: Iterable[tuple[str, Sequence[str]]] = (
            ("missing", [names.own(name) for name in best.missing]),
            ("extra", [names.own(name) for name in best.extra]),
            ("of another shape", wrong),
        )
        parts += [f"{word}: {_shown(found)}" for word, found in lists if found]
    return "; ".join(parts)


def _sources(backbone: str) -> list[str]:
    public = layouts(backbone) if backbone in BACKBONES else [backbone.partition("/")[0]]
    return ["this project", *public]


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "nothing"
