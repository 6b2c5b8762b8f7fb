"""From a verified artifact to an application that is ready: a worker's work after the fork."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask, Response, request

from image_classification import logs
from image_classification.archive import UnpackLimits
from image_classification.artifact import Artifact, GraphFile, open_artifact
from image_classification.contract import environment, process
from image_classification.contract.interface import answer_form
from image_classification.devices import machine
from image_classification.errors import BackendError, UnusableDeviceError
from image_classification.serving import (
    app,
    model_process,
    models,
    multi_model,
    page,
    runtime,
)
from image_classification.serving.admission import (
    MemoryBudget,
    Plan,
    memory_used,
    return_free_memory,
)
from image_classification.serving.batching import Batcher, batch_threads
from image_classification.serving.custom import find_custom_code, warn_of_unused_code
from image_classification.serving.decoding import Decoder
from image_classification.serving.isolation import IS_SUPPORTED, Forkserver
from image_classification.serving.log_output import LogHandler, LogOutput
from image_classification.serving.observation import Health, write_access_log
from image_classification.serving.request_settings import RequestSettings, read_settings

if TYPE_CHECKING:
    from image_classification.serving.metrics import Metrics

_MOST_MEMBERS = 1_000  # of an archive that POST /models names; an artifact has ten, and own code
_UNPACK_SECONDS = 60  # the least time to unpack such an archive

_logger = logging.getLogger(__name__)


def open_metrics() -> Metrics | None:
    """Return the process's metrics, or None if they are switched off."""
    if not environment.METRICS.read_switch():
        return None
    from image_classification.serving.metrics import Metrics

    return Metrics()


def create_server_app(
    artifact: Artifact | None,
    plan: Plan,
    health: Health,
    metrics: Metrics | None = None,
    forkserver: Forkserver | None = None,
    form: str = logs.PLAIN,
    url: str = "",
) -> Flask:
    """Make the application of a server process, with settings from the environment.

    Without an artifact it is a multi-model endpoint. Each gunicorn worker calls this after the
    fork, because a framework's threads do not survive one. `forkserver` starts the processes that
    decode; None: everything is decoded in this one. `form` is that of the log, one of `logs.FORMS`;
    one for a terminal begins with `url`.
    """
    output = LogOutput(sys.stdout)
    level = environment.LOG_LEVEL.read_integer(0)
    logs.configure(level, handler=LogHandler(output), form=form)
    write_access_log(output if environment.ACCESS_LOG.read_switch() else None, form)
    settings = read_settings()
    decoder = Decoder(plan, health, forkserver)
    if artifact is None:
        application = _multi_model_app(settings, plan, health, metrics, decoder)
        if form == logs.TERMINAL:
            _logger.info("%s is ready: POST models to %smodels; Ctrl-C stops it", url, url)
        return application
    try:
        model = load_model(artifact, plan, health, decoder)
    except MemoryError as error:
        if not plan.on_gpu:
            raise
        raise UnusableDeviceError(
            "the GPU has no memory for this model and batches of "
            f"{plan.max_batch} images ({error}): lower "
            f"{environment.MAX_BATCH_SIZE.name}, use a larger instance, or set "
            f"{environment.DEVICE.name}=cpu to compute on the CPU"
        ) from error
    respond = _responder(model, settings, health)
    if settings.unknown_below is not None and not isinstance(respond, app.Answering):
        _logger.warning("%s has no effect on your own code", environment.UNKNOWN_BELOW.name)
    application = app.create_app(respond, settings, health, metrics)
    if environment.PAGE.read_switch():
        _add_page(application, model, settings.max_content_length)
    if form == logs.TERMINAL:
        _show_start(model, url)
    else:
        _log_start(model, plan)
    return application


def load_model(artifact: Artifact, plan: Plan, health: Health, decoder: Decoder) -> models.Model:
    """Load the model of `artifact`, to be run according to `plan` and watched by `health`.

    Args:
        artifact: verified artifact.
        plan: how the process works.
        health: of the process.
        decoder: of the process: all its models decode in the same memory.

    Raises:
        ArtifactError: its graph cannot be loaded, or contradicts the artifact.
    """
    device = "cuda" if plan.on_gpu else "cpu"
    session = runtime.Runtime(artifact.graph_file, device=device, settings=plan.gpu)
    graph: runtime.Graph = session
    if plan.max_batch > 1:
        size = artifact.preprocessing
        shape = (size.height, size.width, size.channels)
        graph = Batcher(session, shape, plan.max_batch, batch_threads(shape, plan))
    return _checked_model(artifact, models.GuardedGraph(graph, health), decoder)


def _checked_model(artifact: Artifact, graph: runtime.Graph, decoder: Decoder) -> models.Model:
    """Return the model once it has predicted an image."""
    max_pixels = environment.max_pixels()
    return models.Model(artifact, graph, max_pixels, decoder)


def _nothing() -> None:
    """Free nothing."""


def _forget() -> None:
    """Return the memory of an unloaded model to the system."""
    gc.collect()
    return_free_memory()


@contextmanager
def _graph_file(path: Path, limits: UnpackLimits) -> Iterator[GraphFile]:
    """Open the graph of the artifact in a folder or an archive."""
    with open_artifact(path, limits) as artifact:
        yield artifact.graph_file


def _multi_model_app(
    settings: RequestSettings,
    plan: Plan,
    health: Health,
    metrics: Metrics | None,
    decoder: Decoder,
) -> Flask:
    """Make the application of a multi-model endpoint, which starts without a model."""

    is_isolated = IS_SUPPORTED and not plan.on_gpu
    # Now, while this process has one thread. A GPU has one owner, so its models stay together.
    children = {model_process.CHILD: model_process.ModelChild()}
    forkserver = Forkserver(children) if is_isolated else None
    device_free = machine.free_memory() if plan.on_gpu else None
    budget = MemoryBudget(multi_model.memory_budget(plan, device_free))

    limits = UnpackLimits(members=_MOST_MEMBERS, seconds=max(plan.timeout, _UNPACK_SECONDS))

    def load(path: Path, account: multi_model.Account) -> multi_model.LoadedModel:
        with open_artifact(path, limits) as artifact:
            account(multi_model.memory_needed(artifact.directory))  # more than the archive
            warn_of_unused_code(artifact.directory, "multi-model endpoints run no code from models")
            decoder.check_input(artifact.preprocessing)
            form = answer_form(artifact.manifest)
            if forkserver is None:
                model = load_model(artifact, plan, health, decoder)
                shrink, end = _nothing, _forget
            else:
                processes = model_process.ModelProcesses(
                    forkserver,
                    artifact.graph_file,
                    partial(_graph_file, path, limits),
                    health,
                    model_process.Bounds(
                        processes=plan.threads,
                        waiting=max(1, (plan.threads + plan.queue_size) // 2),
                        seconds=plan.timeout,
                    ),
                    budget,
                )
                shrink, end = processes.shrink, processes.end
                try:
                    model = _checked_model(artifact, processes, decoder)
                    account(processes.memory)
                except BaseException:
                    end()
                    raise
        respond = app.Answering(model.predict_in_parts, form, settings)
        return multi_model.LoadedModel(respond, shrink, end)

    store = multi_model.ModelStore(load, budget, multi_model.most_models())
    application = app.create_app(multi_model.refuse_invocation, settings, health, metrics)
    application.register_blueprint(multi_model.routes(store))
    _logger.info(
        "Serving the models that POST /models names, in %d MiB; %s", budget.total >> 20, plan
    )
    return application


def _responder(model: models.Model, settings: RequestSettings, health: Health) -> app.Responder:
    """Return the user's own handlers if there are any, else our model."""
    artifact = model.artifact
    form = answer_form(artifact.manifest)
    code = find_custom_code(artifact.directory)
    if code is None:
        return app.Answering(model.predict_in_parts, form, settings)
    try:
        from image_classification.serving.custom.handlers import CustomHandlers, ServedModel
    except ModuleNotFoundError as error:
        raise BackendError(
            f"code/{code.program} needs the package sagemaker-inference, which is not installed "
            f"({error.name} is missing): pip install 'sagemaker-image-classification[own-code]', "
            f"or unset {environment.PROGRAM.name}"
        ) from error
    served = ServedModel(model.predict_each, artifact.labels, artifact.is_multi_label)
    handlers = CustomHandlers(code, served, form, settings, health)
    if handlers.functions:
        names = ", ".join(handlers.functions)
        _logger.info("Answering through code/%s of the artifact: %s", code.program, names)
    return handlers


def _add_page(application: Flask, model: models.Model, max_bytes: int) -> None:
    """Add `GET /` and the files that the page loads."""
    files = page.page_files(model.artifact, model.providers, max_bytes)

    def show() -> Response:
        body, content_type = files[request.path]
        return Response(body, headers=page.HEADERS, content_type=content_type)

    for path in files:
        application.add_url_rule(path, view_func=show, endpoint=f"page {path}", methods=["GET"])


def _show_start(model: models.Model, url: str) -> None:
    """Log what a person at a terminal does next."""
    shown = f"{model.artifact.manifest['backbone']}, {model.artifact.manifest['classes']} classes"
    what = "open it to try images" if environment.PAGE.read_switch() else "it has no page"
    _logger.info("%s serves %s: %s, or", url, shown, what)
    _logger.info("  curl --data-binary @IMAGE -H 'Content-Type: image/jpeg' %sinvocations", url)
    _logger.info("Ctrl-C stops it.")


def _log_start(model: models.Model, plan: Plan) -> None:
    """Log the model, the device, the number of simultaneous requests and the memory."""
    artifact = model.artifact
    manifest = artifact.manifest
    _logger.info(
        "Serving %s (%s classes, %s interface, trained by %s) with %s; %s; %d MiB of %d MiB used",
        manifest["backbone"],
        manifest["classes"],
        artifact.interface,
        manifest["backend"],
        ", ".join(model.providers),
        plan,
        memory_used() >> 20,
        process.memory_limit() >> 20,
    )
