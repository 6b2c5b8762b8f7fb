"""Every error that the product raises on purpose, and who has to act on it.

    ImageClassificationError
    ├── UserError                  the data, a hyperparameter, a file: the user acts; exit code 2
    │   ├── HyperparameterError    a name or a value the job does not know
    │   ├── ChannelError           an input channel is missing, unexpected, empty or contradictory
    │   ├── DataError              the data set as a whole cannot be used
    │   │   ├── ListError          a line of a list (.lst) is malformed
    │   │   ├── RecordError        a record file or its index is damaged
    │   │   ├── LabelError         a label is not one that the classes allow
    │   │   │   ├── SeveralLabelsError   an image has several labels, where one is expected
    │   │   │   └── ForeignLabelsError   labels of another task: boxes, identities, landmarks
    │   │   └── ImageError         one image cannot be used
    │   │       ├── ImageFormatError     not an image, or a format that is not accepted
    │   │       ├── ImageDamagedError    truncated or corrupt
    │   │       └── ImageTooLargeError   more pixels than the limit
    │   ├── ArtifactError          a model artifact is incomplete, altered or of another version
    │   ├── BackendError           a backend or backbone that is not installed or does not exist
    │   ├── UnusableDeviceError    the GPU that should compute is absent or cannot be used
    │   └── UsageError             the command line asks for something impossible
    ├── AlgorithmError             our own fault; exit code 1
    │   ├── DeviceError            the device or its runtime failed: the process must be replaced
    │   ├── ForkserverError        the process that starts child processes ended: replace this one
    │   └── ProcessError           a child process ended without an answer
    │       ├── NoProcessError         the kernel refuses to start one
    │       ├── MemoryLimitError       it took more memory than its limit
    │       │   └── NoMemoryLeftError      the kernel killed it
    │       ├── CpuLimitError          it took more CPU time
    │       └── TimeLimitError         its deadline passed
    └── RequestError               an invocation the server refuses, with its HTTP status

A message names what was expected, what was found (name and value) and what to do.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

OUT_OF_MEMORY = (
    "out of memory while decoding or resizing it: make the image smaller, or use a machine with "
    "more memory"
)
"""The reason why an image is left out where memory ends in spite of all estimates."""

LFS_POINTER = "a Git LFS pointer, not the file itself"
LFS_CURE = "run git lfs pull"
"""What stands in place of a file that Git LFS did not download, in the same words everywhere."""


_SINGULAR = {
    "images": "image", "samples": "sample", "files": "file", "folders": "folder",
    "links": "link", "lines": "line",
    "classes": "class", "records": "record", "bytes": "byte", "labels": "label", "shards": "shard",
    "groups": "group", "objects": "object", "errors": "error", "warnings": "warning",
    "processes": "process", "threads": "thread", "requests": "request", "models": "model",
    "notes": "note", "annotations": "annotation", "are": "is", "have": "has", "were": "was",
    "them": "it", "repeat": "repeats", "take": "takes", "backbones": "backbone",
}  # fmt: skip


def counted(count: int, things: str) -> str:
    """Return a count for a message: `3 images that have …`, `1 image that has …`."""
    if count != 1:
        return f"{count} {things}"
    return f"1 {re.sub(r'[a-z]+', lambda word: _SINGULAR.get(word[0], word[0]), things)}"


class ImageClassificationError(Exception):
    """Base of every error raised on purpose; `prefix` begins its line in the failure file."""

    prefix = "AlgorithmError"
    exit_code = 1


class UserError(ImageClassificationError):
    """The user must change data or settings."""

    prefix = "ClientError"
    exit_code = 2


class HyperparameterError(UserError):
    """Hyperparameters are unknown, missing, malformed or contradict each other."""


class ChannelError(UserError):
    """An input channel is missing, unexpected, empty or contradicts another."""


class DataError(UserError):
    """The data set as a whole cannot be used."""


class ListError(DataError):
    """A list file or one of its lines is malformed."""


class RecordError(DataError):
    """A record file or its index is damaged; the message has file, offset and record number."""


class LabelError(DataError):
    """Labels contradict what is expected: one class, or a 0 or 1 for each; and how many classes."""


class SeveralLabelsError(LabelError):
    """A record has several labels, but one class is expected."""


class ForeignLabelsError(LabelError):
    """Labels are those of another task, such as object detection; the message says what to do."""


class ImageError(DataError):
    """One image cannot be used. The message does not name it; the caller adds its key."""


class ImageFormatError(ImageError):
    """The bytes are not an image in an accepted format."""


class ImageDamagedError(ImageError):
    """The image is truncated or corrupt."""


class ImageTooLargeError(ImageError):
    """The image's header announces more pixels than the limit; no pixel was allocated."""


class ArtifactError(UserError):
    """A model artifact is incomplete, altered, or of another format version."""


class BackendError(UserError):
    """A backend or a backbone does not exist, or its framework is not installed."""


class UnusableDeviceError(UserError):
    """A GPU is demanded and absent, or present and unusable: the driver, the image or a setting."""


class UsageError(UserError):
    """The command line asks for something impossible."""


class AlgorithmError(ImageClassificationError):
    """An internal expectation failed: a fault of this program, not of its input."""


class DeviceError(AlgorithmError):
    """The device or its runtime failed; only a new process can repair that."""


class ForkserverError(AlgorithmError):
    """No child process can be started; only a new server process can repair that."""


class ProcessError(AlgorithmError):
    """A child process ended without an answer; the message has no subject."""


class NoProcessError(ProcessError):
    """The kernel refuses another process now: too many, or no memory."""


class MemoryLimitError(ProcessError):
    """A child process took more memory than its limit, or than there is."""


class NoMemoryLeftError(MemoryLimitError):
    """The kernel killed a child process because no memory was left, whichever process took it."""


class CpuLimitError(ProcessError):
    """A child process took more CPU time than its limit."""


class TimeLimitError(ProcessError):
    """A child process gave no answer in time."""


class RequestError(ImageClassificationError):
    """The server refuses an invocation.

    Args:
        status: the HTTP status code, 400 to 599.
        message: one line for the client: what was received, what is accepted, what to do.
        headers: additional headers of the response.
    """

    prefix = "RequestError"

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
