"""Files of weights that other programs wrote: their tensors by name, read without executing them.

In: a file or a folder from anybody. Out: a `TensorFile`, and what a folder says about the images of
its network. One module per format; this one recognizes the format by the first bytes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from image_classification.errors import ArtifactError
from image_classification.weights.hdf5_file import is_hdf5, read_hdf5
from image_classification.weights.mxnet_file import is_params, read_mxnet
from image_classification.weights.safetensors_file import is_safetensors, read_safetensors
from image_classification.weights.shards import is_index, read_shards
from image_classification.weights.tensors import RegularFile, TensorFile
from image_classification.weights.torch_file import is_torch, read_torch

_READERS = (
    (is_torch, read_torch),
    (is_hdf5, read_hdf5),
    (is_params, read_mxnet),
    (is_safetensors, read_safetensors),
)
_OTHERS = (  # first bytes → what that is, and what to do
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
    (b"<", "an HTML or XML text: it can be the error or login page of a download"),
    (b"{", "a JSON text: it can be the error of a download"),
    (b"\x1f\x8b", "a gzip archive: name it .tar.gz if it is one, else unpack it"),
)


@contextmanager
def opened(path: Path) -> Iterator[tuple[RegularFile, TensorFile]]:
    """Open a file of weights, or all files of an index; tensors can be loaded within the block.

    Raises:
        ArtifactError: not such a file, or a damaged one.
    """
    with closing(RegularFile(path)) as file, ExitStack() as stack:
        yield file, _read(file, stack if is_index(path) else None)


def _read(file: RegularFile, shards: ExitStack | None = None) -> TensorFile:
    """Read a file, or all files of an index, which the stack `shards` closes."""
    try:
        if shards is not None:
            return read_shards(file, _read, shards)
        head = file.read(0, min(file.size, 64))
        read = next((read for is_one, read in _READERS if is_one(head)), None)
        if read is not None:
            return read(file)
        text = head.lstrip(b"\xef\xbb\xbf \r\n\t")
        found = (kind for magic, kind in _OTHERS if text.startswith(magic))
        raise ValueError(next(found, f"one that begins with {head[:8]!r}" if head else "no bytes"))
    except (ValueError, OSError, LookupError, OverflowError, RecursionError) as error:
        raise ArtifactError(
            f"{file.path}: expected weights as safetensors, as a .pth file of PyTorch, as a .h5 "
            f"file of Keras or as a .params file of MXNet, got {error}"
        ) from error
