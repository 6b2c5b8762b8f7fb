"""Names the model of another program in a folder, and the cure, by the names of its files.

The MXNet and TensorFlow built-ins, Keras, Hugging Face and PyTorch write such folders. Their files
are never loaded, because some would run code.
"""

import re
from itertools import islice
from pathlib import Path

# A pattern of file names, what that is, and the cure; the first row that fits is named.
_OTHER_MODELS = tuple(
    (re.compile(rf"(?:^|/)(?:{pattern})$"), kind, cure)
    for pattern, kind, cure in (
        (
            r"image-classification-symbol\.json",
            "a model of the MXNet built-in",
            "convert it with image-classification export --from-mxnet {path} --output model, or "
            "put its model.tar.gz into the channel model of a training job",
        ),
        (
            r".*-symbol\.json|.*-\d{4}\.params",
            "an MXNet model that the built-in did not write",
            "train a network here",
        ),
        (
            r"saved_model\.pb(?:txt)?",
            "a TensorFlow SavedModel, such as the TensorFlow built-in writes",
            "to train from it, put it into the channel model of a job with backend=tensorflow "
            "(docs/tensorflow.md)",
        ),
        (
            r".*\.keras|.*\.h5|.*\.hdf5|keras_metadata\.pb",
            "a Keras model",
            "train its network here, with backend=tensorflow and backbone=keras/<name>",
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
            "train a network here",
        ),
        (
            r".*\.(?:pth|pt|ckpt|bin|mar|pkl|pickle|joblib|torchscript)",
            "weights of PyTorch or another framework, which are not read because a pickle can "
            "contain code",
            "train a network here",
        ),
        (
            r".*\.(?:onnx|safetensors)",
            "a graph or weights alone",
            "give the whole folder that train or export wrote, with manifest.json, labels.json "
            "and preprocessing.json",
        ),
    )
)
_ARCHIVE = re.compile(r".*\.(?:tar\.gz|tgz)")

_MOST_NAMES = 200  # that are looked at, at the top and again one folder below
_SHOWN = 10


def describe_folder(directory: Path, manifest: str) -> str:
    """Return the end of a sentence: what `directory`, which has no manifest, holds, and the cure.

    Args:
        directory: the user's folder, or an unpacked archive; it need not exist.
        manifest: the name of an artifact's manifest.
    """
    found = [path for part in ("*", "*/*") for path in islice(directory.glob(part), _MOST_NAMES)]
    names = sorted(path.relative_to(directory).as_posix() for path in found)
    for name in names:
        if name.endswith(f"/{manifest}"):
            inner = directory / Path(name).parent
            return f"it in the folder {inner.name}: give {inner}, or pack only the files in it"
    if named := _described(names, directory):
        return named
    if archive := next(filter(_ARCHIVE.fullmatch, names), None):
        return f"an archive ({archive}): give {directory / archive} if it is the model"
    return str([name for name in names if "/" not in name][:_SHOWN] or "nothing")


def describe_file(path: Path) -> str | None:
    """As `describe_folder` for a file; None if it begins as an archive or its name says nothing."""
    with path.open("rb") as file:
        head = file.read(512)
    is_archive = head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or b"ustar" in head
    return None if is_archive else _described([path.name], path)


def _described(names: list[str], path: Path) -> str | None:
    for pattern, kind, cure in _OTHER_MODELS:
        shown = next((name for name in names if pattern.search(name)), None)
        if shown is not None:
            return f"{kind} ({shown}): {cure.format(path=path)}"
    return None
