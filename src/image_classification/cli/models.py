"""`evaluate`, `serve`, `export`, `weights`: artifacts, and weights to start from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from image_classification.cli.command_line import Commands, add_command, add_model, check_top_k
from image_classification.contract.environment import (
    BACKEND,
    BASE_DIR,
    HOST,
    MAX_PIXELS,
    MODEL_DIR,
    PORT,
    WEIGHTS_DIR,
)
from image_classification.contract.process import cpu_count
from image_classification.errors import UsageError
from image_classification.logs import Progress


def add_commands(subparsers: Commands) -> None:
    """Add the commands."""
    _add_evaluate(subparsers)
    _add_serve(subparsers)
    _add_export(subparsers)
    _add_weights(subparsers)


def _add_evaluate(subparsers: Commands) -> None:
    command = add_command(
        subparsers,
        "evaluate",
        "measure an artifact on labeled images, through the serving path",
        "image-classification evaluate --model model --data flowers/val --json",
    )
    add_model(command)
    command.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="class folders or .rec file(s)"
    )
    command.add_argument("--top-k", type=int, metavar="K", help="report top-k accuracy too")
    command.add_argument("--json", action="store_true", help="one JSON object instead of text")
    command.set_defaults(run=evaluate)


def evaluate(namespace: argparse.Namespace) -> int:
    """Print the metrics of an artifact on a data set."""
    from image_classification.artifact import open_artifact
    from image_classification.evaluate import open_labeled, predict_source
    from image_classification.serving.models import Model, Runtime
    from image_classification.training.evaluation import metrics_of

    check_top_k(namespace.top_k)
    with open_artifact(namespace.model) as artifact:
        source = open_labeled(namespace.data, artifact.labels, artifact.is_multi_label)
        model = Model(artifact, Runtime(artifact.model_file), MAX_PIXELS.read_integer(1))
        threads = cpu_count()
        with Progress("evaluate", len(source), "images") as progress:
            outcomes, skipped = predict_source(model, source, threads, progress.advance)
        metrics = metrics_of(outcomes, namespace.top_k)
    if namespace.json:
        _write(
            json.dumps(
                {"samples": len(outcomes.keys), "metrics": metrics, "skipped": dict(skipped)},
                ensure_ascii=False,
            )
        )
    else:
        _write(f"{len(outcomes.keys)} images")
        for name, value in metrics.items():
            _write(f"{name}: {value:.4f}")
        for key, reason in skipped:
            _write(f"skipped {key}: {reason}")
    return 2 if skipped else 0


def _add_serve(subparsers: Commands) -> None:
    command = add_command(
        subparsers,
        "serve",
        "answer invocations over HTTP, as the container does",
        "image-classification serve --model model --port 8080",
    )
    command.add_argument(
        "--model", type=Path, metavar="DIR", help="artifact (default: <base>/model of /opt/ml)"
    )
    command.add_argument("--host", help="address to listen on (default: all of them)")
    command.add_argument("--port", type=int, help="port (default: $SAGEMAKER_BIND_TO_PORT or 8080)")
    # The platform collects both streams; on a laptop the log is the output.
    command.set_defaults(run=serve, log_stream=sys.stdout)


def serve(namespace: argparse.Namespace) -> int:
    """Serve until the process is told to stop."""
    from image_classification.serving import server

    configured = MODEL_DIR.read()
    model = namespace.model or Path(configured or Path(BASE_DIR.read()) / "model")
    port = PORT.read_integer(1) if namespace.port is None else namespace.port
    if not 1 <= port <= 65535:
        raise UsageError(f"port {port}: expected 1 to 65535")
    server.serve(model, namespace.host or HOST.read(), port)
    return 0


def _add_export(subparsers: Commands) -> None:
    command = add_command(
        subparsers,
        "export",
        "write an artifact without training, or an artifact in another model format",
        "image-classification export --backbone efficientnet_lite0 --output imagenet-model\n"
        "  image-classification export --from-mxnet model.tar.gz --output model\n"
        "  image-classification export --model model.tar.gz --format saved_model --output saved/1",
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--backbone", help="an untouched pretrained backbone (ImageNet's 1,000 classes)"
    )
    what.add_argument(
        "--from-mxnet",
        type=Path,
        metavar="FILE",
        help="model.tar.gz of the MXNet built-in, or the folder it was unpacked to",
    )
    what.add_argument(
        "--model", type=Path, metavar="DIR", help="artifact folder or model.tar.gz, with --format"
    )
    command.add_argument(
        "--format",
        metavar="NAME",
        help="format of --model, such as saved_model; needs the framework",
    )
    backend = BACKEND.read()
    command.add_argument("--backend", default=backend, help=f"default: {backend}")
    command.add_argument(
        "--labels", type=Path, metavar="FILE", help="labels.json (default: the class numbers)"
    )
    command.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="artifact folder"
    )
    command.set_defaults(run=export)


def export(namespace: argparse.Namespace) -> int:
    """Write an artifact without training, or an artifact in another format."""
    from image_classification.export import export_built_in, export_pretrained
    from image_classification.labels.label_map import LabelMap

    if (namespace.model is None) != (namespace.format is None):
        raise UsageError("--model and --format belong together: give both, or --backbone alone")
    if namespace.model is not None:
        from image_classification.export import export_format

        export_format(namespace.model, namespace.format, namespace.output)
        _write(str(namespace.output))
        return 0
    labels = LabelMap.read(namespace.labels) if namespace.labels else None
    if namespace.from_mxnet:
        export_built_in(namespace.from_mxnet, namespace.backend, labels, namespace.output)
    else:
        export_pretrained(namespace.backend, namespace.backbone, labels, namespace.output)
    _write(str(namespace.output))
    return 0


def _add_weights(subparsers: Commands) -> None:
    command = add_command(
        subparsers,
        "weights",
        "write pretrained weights as safetensors, to bake into an image or mount beside a job",
        "image-classification weights efficientnet_lite0 --output weights",
    )
    command.add_argument("backbones", nargs="+", metavar="BACKBONE", help="its name in the catalog")
    backend = BACKEND.read()
    command.add_argument("--backend", default=backend, help=f"default: {backend}")
    command.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help=f"folder to name in {WEIGHTS_DIR.name}",
    )
    command.set_defaults(run=weights)


def weights(namespace: argparse.Namespace) -> int:
    """Write `<backbone>.safetensors` for each backbone and print its path."""
    from image_classification.export import write_pretrained_weights

    for path in write_pretrained_weights(namespace.backend, namespace.backbones, namespace.output):
        _write(str(path))
    return 0


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
