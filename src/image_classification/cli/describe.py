"""`image-classification describe`: print the CreateAlgorithm request of an interface as JSON."""

import argparse
import json

from image_classification import __version__
from image_classification.cli import command_line
from image_classification.contract.algorithm import algorithm_request
from image_classification.contract.interface import INTERFACES

_EPILOG = """\
example:
  image-classification describe --interface mxnet \\
      --image 1234.dkr.ecr.eu-west-1.amazonaws.com/image-classification-train:0.1.0-torch \\
      --serve-image 1234.dkr.ecr.eu-west-1.amazonaws.com/image-classification-serve:0.1.0 \\
      > algorithm.json
  aws sagemaker create-algorithm --cli-input-json file://algorithm.json
"""


def add_commands(subparsers: command_line.Commands) -> None:
    """Add `describe`."""
    command = subparsers.add_parser(
        "describe",
        help="print hyperparameters, channels and metrics as a CreateAlgorithm request",
        description="Print a CreateAlgorithm request: channels, hyperparameters with ranges and "
        "defaults, metric definitions, and the content types of the server. If the tag of an image "
        "ends in -cu11, -cu12 or -cu13, the instance types are those on which it can compute, and "
        "the description names the AMIs that have its driver. --model-ids prints the table of the "
        "hyperparameter model_id instead.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--interface",
        choices=sorted(INTERFACES),
        default="mxnet",
        help="built-in algorithm whose channels and hyperparameters to describe",
    )
    command.add_argument(
        "--name", help="name of the algorithm (default: image-classification-<interface>)"
    )
    command.add_argument(
        "--image",
        metavar="URI",
        default=f"image-classification-train:{__version__}-torch",
        help="training image (default: %(default)s)",
    )
    command.add_argument(
        "--serve-image",
        metavar="URI",
        default=f"image-classification-serve:{__version__}",
        help="serving image (default: %(default)s)",
    )
    command.add_argument(
        "--model-ids",
        action="store_true",
        help="print JumpStart's model ids with the backbones that stand for them, as CSV",
    )
    command.set_defaults(run=describe)


def describe(namespace: argparse.Namespace) -> int:
    """Print the request, or the table of model ids."""
    if namespace.model_ids:
        from image_classification.backends.model_ids import TABLE

        command_line.say(TABLE.read_text("utf-8").rstrip("\n"))
        return 0
    from image_classification.serving.codec import accept, bodies

    request = algorithm_request(
        INTERFACES[namespace.interface],
        namespace.name or f"image-classification-{namespace.interface}",
        namespace.image,
        namespace.serve_image,
        bodies.content_types(),
        accept.PRODUCED,
    )
    command_line.say(json.dumps(request, ensure_ascii=False, indent=1))
    return 0
