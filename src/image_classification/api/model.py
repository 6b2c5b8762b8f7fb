"""A trained model in Python: predict, evaluate, export and serve, through the serving path."""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, Union, overload

from image_classification.api.results import (
    Evaluation,
    Origin,
    Prediction,
    evaluation_of,
    table,
    trials_in,
)
from image_classification.artifact import MODEL_FILE, REPORT_FILE, Artifact, open_artifact
from image_classification.errors import AlgorithmError, DataError, ImageError, UsageError, UserError
from image_classification.files import written_beside

if TYPE_CHECKING:
    from PIL.Image import Image

    from image_classification.samples import UInt8Array
    from image_classification.serving.models import Model as ServedModel

OneImage: TypeAlias = Union["str | os.PathLike[str]", bytes, "Image", "UInt8Array"]
"""An image: its path, its encoded bytes, a Pillow image, or an array, uint8 (H, W, 3)."""

ONNX = "onnx"
"""The format that every artifact holds already."""

_START_SECONDS = 120.0
_LAST_WORDS_SECONDS = 5.0  # a child of a server that ended may keep the other end of the pipe
_MOST_MESSAGES = 1 << 16  # bytes
_logger = logging.getLogger(__name__)


class Model:
    """An artifact ready to use, from `train` or `load`.

    Args:
        path: the folder of an artifact, or its model.tar.gz. An archive is unpacked into a
            temporary folder, which is removed with the object.

    Raises:
        ArtifactError: no artifact, or one that is incomplete or was changed.
    """

    def __init__(self, path: Path) -> None:
        stack = ExitStack()
        self._artifact: Artifact = stack.enter_context(open_artifact(path))
        self._close = weakref.finalize(self, stack.close)
        self._served: ServedModel | None = None
        self.path = path
        self.manifest: Mapping[str, Any] = self._artifact.manifest  # as manifest.json has it

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of the probabilities."""
        return tuple(self._artifact.labels.names)

    @property
    def metrics(self) -> dict[str, Any]:
        """What the job measured, as `manifest.json` has it; empty for a model without training."""
        return dict(self.manifest.get("metrics") or {})

    @property
    def trials(self) -> list[dict[str, Any]]:
        """What `tune` has tried, as `trials.json` has it; empty for other models."""
        return trials_in(self._artifact.directory)

    @property
    def report(self) -> Path:
        """The file of the job's report, an HTML page.

        Raises:
            UserError: the artifact has none, because no job of this program trained it.
        """
        path = self._artifact.directory / REPORT_FILE
        if not path.is_file():
            raise UserError(f"{self.path}: expected {REPORT_FILE} in this artifact, found none")
        return path

    @overload
    def predict(self, images: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...
    @overload
    def predict(self, images: bytes | UInt8Array | Image) -> Prediction: ...
    @overload
    def predict(self, images: str | os.PathLike[str]) -> Any: ...  # a folder is a list
    def predict(self, images: OneImage | Sequence[OneImage]) -> Any:
        """Predict an image, the images of a list, or those in a folder and its subfolders.

        The probabilities are those of `image-classification predict` and of the server: the same
        preprocessing, one image at a time on each CPU.

        Args:
            images: a path, encoded bytes, a Pillow image, an array (uint8, H·W·3, RGB), a list of
                these, or the path of a folder.

        Returns:
            A Prediction for one image. For a list or a folder a list of them, in the order of the
            list or of the names; an image that cannot be used has an `error` there.

        Raises:
            ImageError: the only image cannot be used.
            DataError: no such file, or a folder without images.
            UsageError: something that is not an image.
        """
        if isinstance(images, list | tuple):
            for image in images:
                if isinstance(image, str | os.PathLike) and Path(image).is_dir():
                    raise UsageError(
                        f"{image} is a folder in a list of images: predict the folder alone"
                    )
            return self._predict(list(images))
        if isinstance(images, str | os.PathLike) and Path(images).is_dir():
            return self._predict(_images_in(Path(images)))
        (prediction,) = self._predict([images], warns=False)
        prediction.probabilities  # noqa: B018  # raises the error of an image that cannot be used
        return prediction

    def predict_each(
        self, images: Sequence[OneImage], *, on_read: Callable[[int, bytes], None] | None = None
    ) -> Iterator[Prediction]:
        """Yield the prediction of each image, in order, while the next ones are computed.

        It holds few predictions at a time. An image that cannot be used has an `error`.

        Args:
            images: as in `predict`, but without folders.
            on_read: called with the index and the bytes of each image that could be read, before
                it is predicted; from several threads.

        Raises:
            UsageError: something that is not an image.
        """
        from image_classification.contract import process
        from image_classification.serving.codec.answers import Failure
        from image_classification.work import in_order

        model, names = self._model(), self.labels

        def predict(index: int) -> Prediction:
            image = images[index]
            source = str(image) if isinstance(image, str | os.PathLike) else ""
            try:
                content = _encoded(image)
                if on_read is not None:
                    on_read(index, content)
                (answer,) = model.predict_each([content])
            except ImageError as error:
                return Prediction(source, names, None, str(error))
            if isinstance(answer, Failure):
                return Prediction(source, names, None, answer.reason)
            return Prediction(source, names, answer.probabilities, "", answer.is_multi_label)

        return in_order(predict, range(len(images)), process.cpu_count())

    def evaluate(
        self,
        data: str | os.PathLike[str],
        *,
        top_k: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Measure the model on labeled images, as `image-classification evaluate` does.

        Args:
            data: class folders named like the model's classes, a record file, a folder of those, or
                a folder with the folders of splits, of which test, else validation is used.
            top_k: measure the top-k accuracy too, ≥ 1.
            on_progress: called after each image with the number of images done and of all.

        Raises:
            DataError: no such data, no usable image, or a class that the model lacks.
        """
        from image_classification.contract import process
        from image_classification.evaluate import open_labeled, predict_source

        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k={top_k}: expected 1 or more")
        artifact = self._artifact
        source = open_labeled(Path(data), artifact.labels, artifact.is_multi_label)
        done = count(1)

        def advance() -> None:
            if on_progress is not None:
                on_progress(next(done), len(source))

        outcomes, skipped = predict_source(self._model(), source, process.cpu_count(), advance)
        origin = Origin(source, str(data), str(self.path), artifact.manifest)
        return evaluation_of(outcomes, self.labels, top_k, dict(skipped), origin)

    def export(self, format: str, path: str | os.PathLike[str]) -> Path:
        """Write the model in another format; return its path.

        Args:
            format: `onnx` (a file: uint8 N·H·W·C images → probabilities), or a format of a
                framework that is installed: TensorFlow's `saved_model` (a folder) or `keras` (a
                file).
            path: what to write; it must not exist.

        Raises:
            BackendError: no backend has this format, or its framework is not installed.
            UsageError: `path` exists.
        """
        from image_classification.export import export_format

        target = Path(path)
        if target.exists():
            raise UsageError(f"{target} exists: name another path to write to")
        if format == ONNX:
            with written_beside(target) as partial:
                shutil.copyfile(self._artifact.directory / MODEL_FILE, partial)
        else:
            export_format(self._artifact.directory, format, target)
        return target

    def serve(self, port: int = 8080, host: str = "127.0.0.1") -> Server:
        """Start a server of the model in a separate process; return it once it answers.

        Args:
            port: 1 to 65535.
            host: the address to listen on; the default accepts connections from this machine only.

        Raises:
            UserError: the server cannot start; the message has its reason.
        """
        return Server(self, host, port)

    def __repr__(self) -> str:
        return f"<Model {str(self.path)!r}: {self._summary()}>"

    def _repr_html_(self) -> str:
        rows = ((name,) for name in self.labels)
        return table(f"{self.path}: {self._summary()}", ("class",), rows)

    def _summary(self) -> str:
        measured = self.metrics.get("validation") or {}
        accuracy = measured.get("accuracy")
        shown = f", validation accuracy {accuracy:.1%}" if isinstance(accuracy, float) else ""
        return f"{self._artifact.manifest['backbone']}, {len(self.labels)} classes{shown}"

    def _model(self) -> ServedModel:
        """Return what runs the graph; it is loaded once."""
        if self._served is None:
            from image_classification.contract import environment
            from image_classification.contract.process import disable_telemetry
            from image_classification.devices import serving_device

            disable_telemetry()  # before the import of ONNX Runtime
            from image_classification.serving.models import Model as Served
            from image_classification.serving.runtime import Runtime

            runtime = Runtime(self._artifact.graph_file, device=serving_device().device)
            self._served = Served(self._artifact, runtime, environment.max_pixels())
        return self._served

    def _predict(self, images: Sequence[Any], *, warns: bool = True) -> list[Prediction]:
        found = list(self.predict_each(images))
        failures = sum(bool(prediction.error) for prediction in found)
        if failures and warns:
            _logger.warning("%d of %d images could not be used", failures, len(found))
        return found


class Server:
    """A server process of a model, until `stop` or the end of its `with` block.

    Attributes:
        url: where it answers, such as http://127.0.0.1:8080; the page to drop images on.
    """

    def __init__(self, model: Model, host: str, port: int) -> None:
        if not 1 <= port <= 65535:
            raise UsageError(f"port {port}: expected 1 to 65535")
        _check_free(host, port)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._model = model  # keeps the folder of an archive
        folder = str(model._artifact.directory)
        command = [sys.executable, "-m", "image_classification", "serve", "--model", folder]
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            [*command, "--host", host, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._messages = bytearray()
        arguments = self._process.stderr, self._messages
        self._reader = threading.Thread(target=_keep_last, args=arguments, daemon=True)
        self._reader.start()
        self._end = weakref.finalize(self, _end, self._process)
        try:
            self._wait(host, port)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server after it has answered the requests that it has accepted."""
        self._end()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Server {self.url}>"

    def _wait(self, host: str, port: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._reader.join(_LAST_WORDS_SECONDS)
                lines = self._messages.decode("utf-8", "replace").splitlines()
                reason = lines[-1] if lines else f"it ended with code {self._process.returncode}"
                raise UserError(f"the server cannot start: {reason[:2000]}")
            with (
                suppress(OSError, http.client.HTTPException),
                closing(http.client.HTTPConnection(local, port, timeout=10)) as connection,
            ):
                connection.request("GET", "/ping")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.05)
        raise AlgorithmError(f"the server did not answer within {_START_SECONDS:.0f} s")


def _check_free(host: str, port: int) -> None:
    """Raise a UserError if the port is taken: its owner would answer in place of our server."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another port"
        ) from error


def _keep_last(stream: IO[bytes], kept: bytearray) -> None:
    """Read what a server writes, which runs for weeks, and keep the end of it."""
    with stream:
        while piece := os.read(stream.fileno(), _MOST_MESSAGES):
            kept += piece
            del kept[:-_MOST_MESSAGES]


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _images_in(folder: Path) -> list[object]:
    from image_classification.labels.tree import LeftOut, find_images

    left_out = LeftOut()
    found: list[object] = [folder / name for name in find_images(folder, left_out)]
    left_out.warn(folder, "if such a file is an image, name it itself")
    if not found:
        seen = f"; left out: {left_out}" if str(left_out) else ""
        raise DataError(f"{folder}: expected images in this folder, found none{seen}")
    return found


def _encoded(image: object) -> bytes:
    """Return the bytes of an image file; a picture or an array becomes a PNG, without loss."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ImageError(f"the file cannot be read: {error.strerror}") from error
    from image_classification.images.encode import encode_any

    return encode_any(image)
