"""`export` and `weights`: artifacts without training, other formats, and weights to start from."""

import argparse
from pathlib import Path

from image_classification.cli import command_line
from image_classification.contract.environment import BACKEND, WEIGHTS_DIR
from image_classification.errors import UsageError
from image_classification.weights.download import PUBLISHED


def add_commands(subparsers: command_line.Commands) -> None:
    """Add the commands."""
    _add_export(subparsers)
    _add_weights(subparsers)


def _add_export(subparsers: command_line.Commands) -> None:
    command = command_line.add_command(
        subparsers,
        "export",
        "write an artifact without training, or an artifact in another model format",
        "image-classification export --backbone efficientnet_lite0 --output imagenet-model\n"
        "  image-classification export --from-mxnet model.tar.gz --output model\n"
        "  image-classification export --from-tensorflow model.tar.gz --output model\n"
        "  image-classification export --model model --format onnx --output flowers.onnx\n"
        "  image-classification export --model model.tar.gz --format saved_model --output saved/1",
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--backbone", help="a pretrained backbone, unchanged (ImageNet's 1,000 classes)"
    )
    what.add_argument(
        "--from-mxnet",
        type=Path,
        metavar="FILE",
        help="model.tar.gz of the MXNet built-in, or the folder unpacked from it",
    )
    what.add_argument(
        "--from-tensorflow",
        type=Path,
        metavar="FILE",
        help="model.tar.gz of the TensorFlow built-in or of JumpStart; needs TensorFlow",
    )
    what.add_argument(
        "--model", type=Path, metavar="DIR", help="artifact folder or model.tar.gz, with --format"
    )
    command.add_argument(
        "--format",
        metavar="NAME",
        help="format to convert --model to: onnx, or that of a framework that is installed, such "
        "as saved_model",
    )
    _add_backend(command)
    command.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="labels.json (default: the class names in the model or the weights, ImageNet's for "
        "published weights, or else the class numbers)",
    )
    command.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="artifact folder; with --format a new file or folder",
    )
    command.set_defaults(run=export)


def export(namespace: argparse.Namespace) -> int:
    """Write the artifact or the other format, and print its path."""
    from image_classification import export as exports
    from image_classification.api import load
    from image_classification.api.model import ONNX
    from image_classification.backends import of_format
    from image_classification.labels.label_map import LabelMap

    if (namespace.model is None) != (namespace.format is None):
        raise UsageError("--model and --format belong together: give both, or --backbone alone")
    labels = LabelMap.read(namespace.labels) if namespace.labels else None
    backend, output = namespace.backend, namespace.output
    if namespace.model is not None:
        if namespace.format != ONNX:
            of_format(namespace.format)  # a wrong name is found before the model is read
        load(namespace.model).export(namespace.format, output)
    elif namespace.from_mxnet:
        exports.export_built_in(namespace.from_mxnet, backend, labels, output)
    elif namespace.from_tensorflow:
        exports.export_saved_model(namespace.from_tensorflow, labels, output)
    else:
        exports.export_pretrained(backend, namespace.backbone, labels, output)
    command_line.say(str(output))
    return 0


def _add_weights(subparsers: command_line.Commands) -> None:
    folder = WEIGHTS_DIR.read()
    command = command_line.add_command(
        subparsers,
        "weights",
        "write pretrained weights as safetensors, to add to a container image or mount into a job",
        "image-classification weights efficientnet_lite0 --output weights\n"
        "  image-classification weights resnet50_v1.5 --from resnet50-11ad3fa6.pth "
        "--license BSD-3-Clause\n"
        "  image-classification weights resnet50_v1.5 --from folder-of-hugging-face "
        "--output weights\n"
        "  image-classification weights resnet50_v1.5 --download --output weights",
        "Write BACKBONE.safetensors for each backbone. The weights are those on this machine, with "
        "--from those in a public file, and with --download those that the makers of the network "
        "publish. Every tensor is checked against the network. Nothing in a file is executed, and "
        "only --download uses the internet.",
    )
    command.add_argument("backbones", nargs="+", metavar="BACKBONE", help="name of the backbone")
    origin = command.add_mutually_exclusive_group()
    origin.add_argument(
        "--from",
        dest="source_file",
        type=Path,
        metavar="FILE|FOLDER",
        help="a file of weights (.safetensors, PyTorch's .pth, Keras's .h5 or .keras, MXNet's "
        ".params), the folder of a Hugging Face or timm model, or a .tar.gz of one of these",
    )
    origin.add_argument(
        "--download",
        action="store_true",
        help="download the published file and check its hash; available for "
        f"{', '.join(sorted(PUBLISHED))}",
    )
    command.add_argument(
        "--license",
        metavar="TEXT",
        help="license of the weights in --from (default: what the file says, or unknown)",
    )
    command.add_argument(
        "--source",
        metavar="TEXT",
        help="where the weights in --from were published (default: what the file says, or unknown)",
    )
    _add_backend(command)
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the new file; required without --from and --download, else the default is "
        f"{folder} ({WEIGHTS_DIR.name})",
    )
    command.set_defaults(run=weights)


def weights(namespace: argparse.Namespace) -> int:
    """Write `<backbone>.safetensors` for each backbone and print its path."""
    from image_classification import export as exports

    names, backend = namespace.backbones, namespace.backend
    given = [f"--{name}" for name in ("license", "source") if getattr(namespace, name)]
    if given and namespace.source_file is None:
        raise UsageError(f"{' and '.join(given)} describes the file of --from: add --from FILE")
    if namespace.source_file is None and not namespace.download:
        if namespace.output is None:
            raise UsageError("--output DIR is required without --from FILE")
        for path in exports.write_pretrained_weights(backend, names, namespace.output):
            command_line.say(str(path))
        return 0
    output = namespace.output or Path(WEIGHTS_DIR.read())
    if namespace.download:
        for path in exports.download_weights(backend, names, output):
            command_line.say(str(path))
        return 0
    if len(names) > 1:
        raise UsageError(f"--from names the weights of one backbone, got {', '.join(names)}")
    path = exports.convert_weights(
        backend, names[0], namespace.source_file, output, namespace.source, namespace.license
    )
    command_line.say(str(path))
    return 0


def _add_backend(command: argparse.ArgumentParser) -> None:
    backend = BACKEND.read()
    command.add_argument("--backend", default=backend, help=f"default: {backend}")
