"""The contenders of the serving benchmark, their interpreters and their start commands."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from setting import interpreters
from setting.interpreters import CACHE

HERE = Path(__file__).parent
_MODEL = "torch onnxruntime simplejpeg pillow numpy"  # what predictor.py imports


@dataclass(frozen=True)
class Server:
    """A contender.

    Attributes:
        name: in `--python`.
        imports: a module whose presence says that it is installed; "": our own interpreter.
        requirements: what pip installs beside the model's libraries.
        path: of predictions.
        ping: of the health check.
        needs_java: whether it also needs a Java runtime.
    """

    name: str
    imports: str = ""
    requirements: str = ""
    path: str = "/invocations"
    ping: str = "/ping"
    needs_java: bool = False

    @property
    def install(self) -> str:
        """Return the command that makes the environment of this contender."""
        folder = CACHE / self.name
        java = "apt-get install --yes openjdk-17-jre-headless && " if self.needs_java else ""
        install = f"{folder}/bin/pip install {self.requirements} {_MODEL}"
        return f"{java}python3 -m venv {folder} && {install}"


OURS = Server("ours")
PEERS = (
    Server("flask-sample", "flask", "flask gunicorn"),
    Server("litserve", "litserve", "litserve==0.2.19", ping="/health"),
    Server(
        "torchserve",
        "ts",
        "torchserve==0.12.0 torch-model-archiver psutil pyyaml requests 'setuptools<80'",
        path="/predictions/model",
        needs_java=True,
    ),
    Server(
        "multi-model-server",
        "mms",
        "multi-model-server model-archiver 'setuptools<80'",
        path="/predictions/model",
        needs_java=True,
    ),
    Server("bentoml", "bentoml", "bentoml==1.4.39", ping="/readyz"),
)


def find_interpreters(given: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return name → interpreter, and for missing ones name → install command."""
    found, skipped = {}, {}
    for server in PEERS:
        has_java = not server.needs_java or shutil.which("java")
        modules = (server.imports, "torch", "onnxruntime")
        chosen = interpreters.find(server.name, modules, given) if has_java else None
        if chosen is not None:
            found[server.name] = chosen
        else:
            skipped[server.name] = server.install
    return found, skipped


def command(
    server: Server, python: str, port: int, cpus: int, model: Path, work: Path
) -> list[str]:
    """The command that serves on `port` with a worker for each CPU, run in the folder `work`.

    Args:
        server: whom to start.
        python: its interpreter.
        port: on 127.0.0.1.
        cpus: workers.
        model: artifact.
        work: an empty folder of its own.
    """
    programs = Path(python).parent
    match server.name:
        case "ours":
            return [python, "-m", "image_classification", "serve", "--host", "127.0.0.1",
                    "--model", str(model), "--port", str(port)]  # fmt: skip
        case "flask-sample":
            return [python, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(cpus),
                    "--timeout", "120", "flask_sample:app"]  # fmt: skip
        case "litserve":
            return [python, str(HERE / "litserve_server.py"), str(port), str(cpus)]
        case "bentoml":
            return [python, "-m", "bentoml", "serve", "bentoml_service:Classifier",
                    "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
        case "torchserve":
            return _torchserve(programs, port, cpus, work)
    return _multi_model_server(programs, port, cpus, work)


def _properties(work: Path, port: int, lines: list[str]) -> Path:
    addresses = [
        f"inference_address=http://127.0.0.1:{port}",
        f"management_address=http://127.0.0.1:{port + 1}",
    ]
    path = work / "config.properties"
    path.write_text("\n".join([*addresses, *lines, ""]), "utf-8")
    return path


def _torchserve(programs: Path, port: int, cpus: int, work: Path) -> list[str]:
    archive = ["--model-name", "model", "--version", "1", "--export-path", str(work)]
    handler = ["--handler", str(HERE / "java_server_handler.py")]
    subprocess.run([programs / "torch-model-archiver", *archive, *handler], check=True)
    lines = [
        f"metrics_address=http://127.0.0.1:{port + 2}",
        f"default_workers_per_model={cpus}",
        "disable_token_authorization=true",
        "job_queue_size=1000",
    ]
    return [str(programs / "torchserve"), "--start", "--foreground", "--ncs",
            "--model-store", str(work), "--models", "model=model.mar",
            "--ts-config", str(_properties(work, port, lines))]  # fmt: skip


def _multi_model_server(programs: Path, port: int, cpus: int, work: Path) -> list[str]:
    code = work / "code"
    code.mkdir()
    shutil.copy(HERE / "java_server_handler.py", code)
    archive = ["--model-name", "model", "--model-path", str(code), "--export-path", str(work)]
    handler = ["--handler", "java_server_handler:handle"]
    subprocess.run([programs / "model-archiver", *archive, *handler], check=True)
    lines = [f"default_workers_per_model={cpus}", "job_queue_size=1000"]
    return [str(programs / "multi-model-server"), "--start", "--foreground",
            "--model-store", str(work), "--models", "model=model.mar",
            "--mms-config", str(_properties(work, port, lines))]  # fmt: skip
