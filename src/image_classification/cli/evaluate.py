"""`evaluate`: the metrics of an artifact on labeled images, through the serving path."""

import argparse
import json
from pathlib import Path

from image_classification.cli import command_line
from image_classification.contract import environment, process
from image_classification.logs import Progress


def add_commands(subparsers: command_line.Commands) -> None:
    """Add the command."""
    command = command_line.add_command(
        subparsers,
        "evaluate",
        "measure an artifact on labeled images, through the serving path",
        "image-classification evaluate --model model --data flowers/val --json",
    )
    command_line.add_model(command)
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="class folders, .rec file(s), or a folder with a list of images of several classes",
    )
    command.add_argument("--top-k", type=int, metavar="K", help="report top-k accuracy too")
    command.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text"
    )
    command.set_defaults(run=evaluate)


def evaluate(namespace: argparse.Namespace) -> int:
    """Print the metrics; return 2 if an image could not be used."""
    from image_classification.artifact import open_artifact
    from image_classification.devices import serving_device
    from image_classification.evaluate import open_labeled, predict_source
    from image_classification.serving.models import Model
    from image_classification.serving.runtime import Runtime
    from image_classification.training.evaluation import metrics_of

    command_line.check_top_k(namespace.top_k)
    with open_artifact(namespace.model) as artifact, command_line.memory_of_the_model():
        source = open_labeled(namespace.data, artifact.labels, artifact.is_multi_label)
        device = serving_device().device
        model = Model(
            artifact, Runtime(artifact.graph_file, device=device), environment.max_pixels()
        )
        with Progress("evaluate", len(source), "images") as progress:
            outcomes, skipped = predict_source(model, source, process.cpu_count(), progress.advance)
        metrics = metrics_of(outcomes, namespace.top_k)
    if namespace.json:
        content = {"samples": len(outcomes.keys), "metrics": metrics, "skipped": dict(skipped)}
        command_line.say(json.dumps(content, ensure_ascii=False))
    else:
        command_line.say(f"{len(outcomes.keys)} images")
        command_line.say(*(f"{name}: {value:.4f}" for name, value in metrics.items()))
        command_line.say(*(f"skipped {key}: {reason}" for key, reason in skipped))
    return 2 if skipped else 0
