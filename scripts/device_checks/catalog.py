"""The checks, in the order in which they run: the facts that explain the others come first."""

from __future__ import annotations

from dataclasses import dataclass

_TRAINS = ("numpy", "PIL", "jinja2", "simplejpeg", "torch", "safetensors", "onnx", "onnxruntime")
_SERVES = ("flask", "gunicorn", "httptools")

PACKAGES = {"PIL": "pillow"}
"""Names of distributions that differ from the names of their modules."""


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: for the command line.
        title: for the report.
        goal: what must be true, for the documentation.
        seconds: its time limit.
        program: the module whose `run` makes it.
        modules: that it imports, by their top names.
    """

    name: str
    title: str
    goal: str
    seconds: float
    program: str
    modules: tuple[str, ...] = _TRAINS


CHECKS = (
    Check(
        "machine",
        "The machine, and where the product computes",
        "the driver works, and PyTorch sees a GPU",
        60,
        "device_checks.machine",
    ),
    Check(
        "probabilities",
        "The same probabilities on the device as on the CPU",
        "ResNet-50, EfficientNet-Lite0 and ResNet-20 differ by at most 1e-4 on 64 photographs",
        120,
        "device_checks.probabilities",
    ),
    Check(
        "precisions",
        "Training in float32, bfloat16 and float16, and from a saved state",
        "after 200 steps the losses are within 2%; the scale of float16 falls and rises; the "
        "weights after a resume are those without one (1% of the largest)",
        120,
        "device_checks.precisions",
    ),
    Check(
        "speed",
        "A job against a bare loop",
        "3 × 100 steps of ResNet-50 with batches of 256 (less on small or slow GPUs), in turns: a "
        "job has 0.95 of a bare loop's speed and waits for data for less than 2% of its time, "
        "also with mixup",
        240,
        "device_checks.speed",
    ),
    Check(
        "waits",
        "No wait for the device within a step",
        "PyTorch reports none, for each kind of step",
        60,
        "device_checks.waits",
    ),
    Check(
        "stop",
        "A job that is stopped and resumed",
        "SIGTERM ends it with exit code 0 and an artifact; the next start continues at its step",
        120,
        "device_checks.stop",
    ),
    Check(
        "memory",
        "A batch that does not fit into the memory",
        "the job ends with exit code 2 and one line that names the hyperparameters to change",
        90,
        "device_checks.memory",
    ),
    Check(
        "ranks",
        "Two processes on one device",
        "they train together to the artifact",
        90,
        "device_checks.ranks",
    ),
    Check(
        "serving",
        "A server that answers as the artifact does",
        "answers are within 1e-4 of the artifact's (0.01 with float16); a full batcher keeps the "
        "device busy for 95% of the time; the settings of a GPU are measured",
        150,
        "device_checks.serving",
        (*_TRAINS, *_SERVES),
    ),
)
