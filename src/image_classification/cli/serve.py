"""`serve`: the server of the container, in the container or on a laptop.

`Model.serve` of the Python interface starts this command as a process of its own: the server is a
process with signals and children, in the container the first one, and cannot run in a thread.
"""

import argparse
import sys
from pathlib import Path

from image_classification.cli import command_line
from image_classification.contract.environment import BASE_DIR, HOST, MODEL_DIR, PORT
from image_classification.contract.process import use_one_blas_thread
from image_classification.errors import UsageError


def add_commands(subparsers: command_line.Commands) -> None:
    """Add the command."""
    command = command_line.add_command(
        subparsers,
        "serve",
        "answer invocations over HTTP, as the container does",
        "image-classification serve --model model --port 8080",
    )
    command.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="artifact (default: the folder model in the base directory, /opt/ml)",
    )
    command.add_argument("--host", help="address to listen on (default: all of them)")
    command.add_argument("--port", type=int, help="port (default: $SAGEMAKER_BIND_TO_PORT or 8080)")
    command_line.add_log(command)
    # The platform collects both streams; on a laptop the log is the output.
    command.set_defaults(run=serve, log_stream=sys.stdout, is_platforms=_is_platforms)


def _is_platforms(namespace: argparse.Namespace) -> bool:
    return namespace.model is None


def serve(namespace: argparse.Namespace) -> int:
    """Serve until a signal stops the process."""
    use_one_blas_thread()  # before the import of NumPy
    from image_classification.serving import server

    model = namespace.model or Path(MODEL_DIR.read() or Path(BASE_DIR.read()) / "model")
    port = PORT.read_integer(1) if namespace.port is None else namespace.port
    if not 1 <= port <= 65535:
        raise UsageError(f"port {port}: expected 1 to 65535")
    form = command_line.log_form(namespace)
    server.serve(model, namespace.host or HOST.read(), port, form)
    return 0
