"""Start the engine of a job: build its network, load the first weights, check the export."""

import logging
import tempfile
from pathlib import Path

from image_classification import backends, events
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.base import Engine, ModelSpec, World
from image_classification.contract.channels import ChannelInput
from image_classification.devices import check_engine, device_of
from image_classification.training.backbone import channel_backbone_folder
from image_classification.training.evaluation import positive_weights
from image_classification.training.initial_weights import ChannelWeights, load_initial_weights
from image_classification.training.inputs import Inputs
from image_classification.training.settings import Settings
from image_classification.training.step import logit_bias

_logger = logging.getLogger(__name__)


def start_engine(
    settings: Settings,
    inputs: Inputs,
    weights: ChannelWeights | None,
    model_channel: ChannelInput | None,
    world: World,
) -> tuple[Engine, str]:
    """Return the engine with its first weights, and the origin of these. Imports the framework.

    Args:
        settings, inputs: of the job.
        weights: of the channel `model`, or None.
        model_channel: read if it is the backbone itself.
        world: this process among those that train together.

    Raises:
        UserError: no such backbone or backend, or weights that are missing or do not fit.
        BackendError: the backbone has no ONNX graph.
    """
    backend = backends.load(settings.backend, world.threads)
    with channel_backbone_folder(settings.backbone, model_channel) as folder:
        spec = spec_of(settings, inputs, folder)
        engine = backend.build(spec, settings.optimizer, world)
    check_engine(device_of(settings.backend), engine.device, settings.backend)
    started_from = load_initial_weights(engine, backend, settings, inputs.labels, weights)
    if world.rank == 0 and settings.backbone.name not in BACKBONES:
        _check_graph(engine, settings.backbone.name)
    built = events.Built(
        spec.backbone,
        engine.device,
        world.threads,
        engine.parameter_count,
        engine.trainable_parameter_count,
        started_from,
    )
    _logger.info(
        "Built %s on %s (threads: %d): %d parameters, %d of them trained",
        built.backbone,
        built.device,
        built.threads,
        built.parameters,
        built.trainable_parameters,
        extra=built.extra,
    )
    return engine, started_from


def _check_graph(engine: Engine, backbone: str) -> None:
    """Export once before the first epoch, so that no job trains a model that cannot be served.

    It takes seconds. Only the shared backbones are known to have a graph.
    """
    _logger.info("Checking that %s can be exported", backbone)
    with tempfile.TemporaryDirectory() as folder:
        engine.export(Path(folder) / "model.onnx")


def spec_of(settings: Settings, inputs: Inputs, folder: Path | None) -> ModelSpec:
    """Return the model of a job; `folder` holds the files of a backbone that `is_given`."""
    preprocessing, rows = settings.preprocessing, inputs.training.multi_hot
    classes, tau = len(inputs.labels), settings.recipe.logit_tau
    bias = logit_bias(inputs.training.class_indices, classes, tau).tolist() if tau else ()
    is_weighted = settings.weighted_loss and rows is not None
    return ModelSpec(
        backbone=settings.backbone.name,
        classes=classes,
        input_shape=(preprocessing.channels, preprocessing.height, preprocessing.width),
        mean=preprocessing.mean,
        std=preprocessing.std,
        dropout_rate=settings.dropout_rate,
        seed=settings.seed,
        train_only_head=settings.train_only_head,
        averages_weights=settings.recipe.ema_decay > 0,
        precision=settings.precision,
        compiles=settings.compiles,
        multi_label=settings.multi_label,
        positive_weights=positive_weights(rows) if is_weighted and rows is not None else (),
        logit_bias=tuple(bias),
        folder=folder,
    )
