"""Names the model of another program in a folder, and the cure, by the names of its files.

The MXNet and TensorFlow built-ins, Keras, Hugging Face and PyTorch write such folders. Their files
are never loaded, because some would run code.
"""

import re
from itertools import islice
from pathlib import Path

_TRAIN = (
    "train a network here (image-classification train --channel train=IMAGES --set preset=transfer "
    "--output model)"
)
_WEIGHTS = (
    "a job starts from its weights: image-classification train --channel training=IMAGES --weights "
    "{path} --output model (on SageMaker: the channel weights). To serve the network as it was "
    "published: image-classification weights BACKBONE --from {path}, then image-classification "
    "export --backbone BACKBONE --output model (docs/bring-weights.md)"
)

# A pattern of file names, what that is, and the cure; the first row that fits is named.
_OTHER_MODELS = tuple(
    (re.compile(rf"(?:^|/)(?:{pattern})$"), kind, cure)
    for pattern, kind, cure in (
        (
            r"image-classification-(?:symbol\.json|\d{4}\.params)|model-shapes\.json",
            "a model of the MXNet built-in",
            "convert it with image-classification export --from-mxnet {path} --output model, or "
            "put its model.tar.gz into the channel model of a training job",
        ),
        (
            r".*-symbol\.json|.*\.params",
            "an MXNet model that the built-in did not write",
            _WEIGHTS,
        ),
        (
            r"__model_info__\.json",
            "a model of JumpStart or of the TensorFlow built-in: a SavedModel with its own "
            "description",
            "it runs on TensorFlow, which this server does not have. Convert it once where "
            "TensorFlow is, such as in the train image of backend=tensorflow: image-classification "
            "export --from-tensorflow {path} --output model; or train on from it: "
            "image-classification train --channel training=IMAGES --channel model=DIR --set "
            "backend=tensorflow --output model (DIR holds the archive; "
            "docs/coming-from-jumpstart.md)",
        ),
        (
            r"saved_model\.pb(?:txt)?|keras_metadata\.pb",
            "a TensorFlow SavedModel, such as the TensorFlow built-in writes",
            "a job trains on from it: image-classification train --channel training=IMAGES "
            "--channel model=DIR --set backend=tensorflow --output model (DIR holds it; "
            "docs/tensorflow.md); if it is a classifier, image-classification export "
            "--from-tensorflow {path} --labels labels.json --output model converts it, where "
            "TensorFlow is installed",
        ),
        (
            r".*\.keras|.*\.h5|.*\.hdf5",
            "a Keras model",
            _WEIGHTS + "; a network that only Keras has needs --set backend=tensorflow --set "
            "backbone=keras/<name> too",
        ),
        (
            r"checkpoint-\d+(?:-\d+)?\.(?:json|safetensors)",
            "checkpoints of a training job",
            "let the job finish; it writes the artifact to its model folder",
        ),
        (
            r"(?:pytorch_model|model|adapter_model|tf_model|flax_model)(?:-\d+-of-\d+)?"
            r"\.(?:bin|safetensors|msgpack)|preprocessor_config\.json",
            "a Hugging Face model",
            _WEIGHTS,
        ),
        (
            r".*\.(?:pth|pt|bin)",
            "weights of PyTorch, without the network",
            _WEIGHTS,
        ),
        (
            r".*\.(?:ckpt|mar|pkl|pickle|joblib|torchscript)",
            "a model of another program, which is not read because it can contain code",
            "save its weights with torch.save(model.state_dict(), 'weights.pth'), and start a job "
            "from them: image-classification train --channel training=IMAGES --weights weights.pth "
            "--output model (docs/bring-weights.md)",
        ),
        (
            r"manifest\.json|labels\.json|preprocessing\.json",
            "a file of an artifact",
            "give its whole folder, {folder}",
        ),
        (
            r".*\.(?:tflite|mlmodel|mlpackage|engine|plan|trt|xml|ncnn|rknn)",
            "a model compiled for another runtime",
            _TRAIN,
        ),
        (
            r".*\.safetensors",
            "weights alone",
            "if train or export wrote it, give its whole folder, with manifest.json, labels.json "
            "and preprocessing.json; else " + _WEIGHTS,
        ),
        (
            r".*\.onnx",
            "a graph alone",
            "give the whole folder that train or export wrote, with manifest.json, labels.json "
            "and preprocessing.json",
        ),
        (r".*\.pb", "a frozen graph of TensorFlow", _TRAIN),
    )
)
_ARCHIVE = re.compile(r"(?i).*\.(?:tar\.gz|tgz|tar|zip)")

# First bytes of a file whose name says nothing → what it is, and the cure.
_CONTENTS = (
    (b"\x89HDF", "an HDF5 file, such as Keras writes", _WEIGHTS),
    (b"\x80", "a pickle, such as PyTorch writes", _WEIGHTS),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"<", "an HTML or XML text", "open it: it can be the error or login page of a download"),
    (b"{", "a JSON text", "open it: it can be the error of a download"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it (tar -xf {path}) and give the folder"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it (7z x {path}) and give the folder"),
    (b"Rar!", "a RAR archive", "unpack it (unrar x {path}) and give the folder"),
    (b"\xff\xd8\xff", "a JPEG image", "give the model with --model and images after it"),
    (b"\x89PNG", "a PNG image", "give the model with --model and images after it"),
)
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\3\4", b"PK\5\6")

_MOST_NAMES = 200  # that are looked at in each of five levels of folders
_SHOWN = 10


def describe_folder(directory: Path, manifest: str) -> str:
    """Return the end of a sentence: what `directory`, which has no manifest, holds, and the cure.

    Args:
        directory: the user's folder, or an unpacked archive; it need not exist.
        manifest: the name of an artifact's manifest.
    """
    levels = ("*", "*/*", "*/*/*", "*/*/*/*", "*/*/*/*/*")
    found = [path for part in levels for path in islice(directory.glob(part), _MOST_NAMES)]
    names = sorted(path.relative_to(directory).as_posix() for path in found)
    if several := [name for name in names if name.endswith(f"/{manifest}")]:
        folders = ", ".join(name.removesuffix(f"/{manifest}") for name in several[:_SHOWN])
        return f"{len(several)} artifacts in its folders {folders}: give one of them"
    if named := _described(names, directory, directory):
        return named
    if archives := [name for name in names if _ARCHIVE.fullmatch(name)]:
        shown = ", ".join(archives[:_SHOWN])
        return f"{len(archives)} archives ({shown}): give the one that is the model"
    return str([name for name in names if "/" not in name][:_SHOWN] or "nothing")


def describe_file(path: Path) -> str | None:
    """As `describe_folder` for a file; None for an archive, and for what cannot be recognized."""
    if not path.stat().st_size:  # also files of /proc, which can wait when they are read
        return None
    with path.open("rb") as file:
        head = file.read(512)
    is_zip = head.startswith(b"PK")
    if not is_zip and (head.startswith(_ARCHIVES) or b"ustar" in head):
        return None
    # Several programs store models in a ZIP under another name.
    if named := _described([path.name], path.parent, path.parent):
        return named
    rows = (row for row in _CONTENTS if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(row[0]))
    found = next(rows, None)
    return None if found is None or is_zip else f"{found[1]}: {found[2].format(path=path)}"


def _described(names: list[str], path: Path, folder: Path) -> str | None:
    for pattern, kind, cure in _OTHER_MODELS:
        shown = next((name for name in names if pattern.search(name)), None)
        if shown is not None:
            return f"{kind} ({shown}): {cure.format(path=path, folder=folder)}"
    return None
