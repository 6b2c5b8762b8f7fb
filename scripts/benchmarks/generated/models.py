"""Model archives in the forms that people have, mutated: the model is the same, or is refused."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import warnings
import zipfile
from functools import cache
from pathlib import Path

from generated import edits, pictures
from generated.case import Case

_SIDE = 16
_LABELS = ("cat", "dög", "eel")


def make(chance: random.Random, folder: Path) -> Case:
    """Write an archive or a folder of a model, and two images."""
    files = dict(_artifact())
    images = [folder / "1.jpg", folder / "2.jpg"]
    for image, (_, content) in zip(images, pictures.sound(), strict=False):
        image.write_bytes(content)
    action = chance.choice(("none", "bytes", "bytes", "bytes", "file", "manifest", "member", "cut"))
    if action == "file":
        _change_file(files, chance)
    elif action == "manifest":
        text = files["manifest.json"]
        files["manifest.json"] = edits.applied(text, edits.edit_text(text, chance))
    top = chance.choice(("", "", "model/", "./", "a/b/"))
    members = [(f"{top}{name}", content) for name, content in files.items()]
    if action == "member":
        spot = chance.randrange(len(members))
        name, content = members[spot]
        members[spot] = (chance.choice(_ODD_NAMES) if chance.random() < 0.5 else name * 2, content)
    form = chance.choice(("tar.gz", "tar.gz", "tar", "zip", "zip", "tgz", "folder", "tar.bz2"))
    path = folder / f"model.{form}"
    if form == "folder":
        path = folder / "model"
        for name, content in members:
            inner = path / name.strip("/")
            if "\0" in name or not inner.resolve().is_relative_to(path) or len(inner.name) > 200:
                continue
            if not inner.exists() and not any(above.is_file() for above in inner.parents):
                inner.parent.mkdir(parents=True, exist_ok=True)
                inner.write_bytes(content)
    else:
        data = _packed(form, members)
        if chance.random() < 0.1:  # an archive in an archive
            data = _packed(form, [("model.tar.gz", _packed("tar.gz", members))])
        if action == "bytes":
            for _ in range(chance.choice((1, 1, 2, 6))):
                data = edits.applied(data, edits.edit_bytes(data, chance))
        elif action == "cut":
            data = data[: chance.randrange(len(data))]
        path.write_bytes(data)
    case = Case("predict", path, [], [str(image) for image in images], what=f"{form} {action}")
    case.truth = _truth(images)
    # A manifest can name other classes and files only together with them; other keys are free.
    case.is_sound = action == "none"
    return case


_ODD_NAMES = (
    "../x",
    "/etc/x",
    "a\0b",
    "x" * 300,
    "é",
    "",
    ".",
    "con",
    "a//b",
    "\\x",
    "labels.json",
)


def _change_file(files: dict[str, bytes], chance: random.Random) -> None:
    name = chance.choice([*files])
    kind = chance.randrange(3)
    if kind == 0:
        del files[name]
    elif kind == 1:
        files[name] = edits.applied(files[name], edits.edit_bytes(files[name], chance))
    else:
        files[chance.choice(("weights.bin", "notes.txt", "code/x.txt", "model.onnx.data"))] = b"x"


def _packed(form: str, members: list[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    if form == "zip":
        with warnings.catch_warnings(), zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
            warnings.simplefilter("ignore")  # a name may occur twice
            for name, content in members:
                packed.writestr(zipfile.ZipInfo(name or "x"), content)
        return made.getvalue()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = made.getvalue()
    if form == "tar.bz2":
        import bz2

        return bz2.compress(data)
    return gzip.compress(data, mtime=0) if form in ("tar.gz", "tgz") else data


@cache
def _artifact() -> tuple[tuple[str, bytes], ...]:
    """Return the files of a small artifact: softmax of the mean of each channel."""
    import tempfile

    from onnx import TensorProto, helper

    from image_classification.artifact import write_artifact
    from image_classification.images.preprocessing import Preprocessing
    from image_classification.labels.label_map import LabelMap

    ends = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", _SIDE, _SIDE, 3]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3]),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    description = {"interface": "mxnet", "backend": "reference", "backbone": "resnet20"}
    with tempfile.TemporaryDirectory() as folder:
        write_artifact(
            Path(folder), description, LabelMap(_LABELS),
            Preprocessing(height=_SIDE, width=_SIDE, resize=_SIDE),
            {"model.onnx": lambda path: path.write_bytes(model.SerializeToString())},
        )  # fmt: skip
        return tuple((p.name, p.read_bytes()) for p in sorted(Path(folder).iterdir()))


@cache
def _probabilities() -> tuple[str, ...]:
    """Return what `predict` prints for the two images with the sound artifact, without paths."""
    import tempfile

    from generated.product import run

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        for name, content in _artifact():
            (model / name).write_bytes(content)
        images = [Path(folder) / "1.jpg", Path(folder) / "2.jpg"]
        for image, (_, content) in zip(images, pictures.sound(), strict=False):
            image.write_bytes(content)
        outcome = run(Case("predict", model, [], [str(i) for i in images]), Path(folder))
    assert outcome.code == 0, outcome.error
    answers = [json.loads(line) for line in outcome.output.splitlines()]
    assert all("error" not in answer for answer in answers), answers
    return tuple(json.dumps({**answer, "image": ""}) for answer in answers)


def _truth(images: list[Path]) -> str:
    lines = [
        json.dumps({**json.loads(line), "image": str(image)}, ensure_ascii=False)
        for line, image in zip(_probabilities(), images, strict=True)
    ]
    return "".join(f"{line}\n" for line in lines)
