"""From a verified artifact to a model that has answered once."""

from __future__ import annotations

import logging

from image_classification.artifact import Artifact
from image_classification.contract import environment
from image_classification.serving import memory
from image_classification.serving.batching import Batcher
from image_classification.serving.health import Health
from image_classification.serving.models import Graph, Model
from image_classification.serving.pixel_gate import PixelGate
from image_classification.serving.runtime import Runtime
from image_classification.serving.scheduling import GuardedGraph, Plan

_logger = logging.getLogger(__name__)


def load_model(artifact: Artifact, plan: Plan, health: Health, gate: PixelGate) -> Model:
    """The model of `artifact`, run as `plan` says and watched by `health`.

    `gate` is the process's: all its models decode in the same memory.

    Raises:
        ArtifactError: its graph cannot be loaded, or does not give what the artifact promises.
    """
    runtime = Runtime(artifact.model_file)
    graph: Graph = runtime
    if plan.max_batch > 1:
        size = artifact.preprocessing
        graph = Batcher(runtime, (size.height, size.width, size.channels), plan.max_batch)
    max_pixels = environment.MAX_PIXELS.read_integer(1)
    return Model(artifact, GuardedGraph(graph, health), max_pixels, gate)


def log_start(model: Model, plan: Plan) -> None:
    """One line that says what serves, on what, how many at once and with how much memory."""
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
        memory.used() >> 20,
        memory.limit() >> 20,
    )
