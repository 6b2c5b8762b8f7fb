"""CPU and device give the same probabilities: what is validated on a GPU is served on a CPU.

Also a program: `python -m device_checks.probabilities FOLDER` computes on the CPU, in a process
from which GPUs are hidden, because one that has a GPU computes on it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from device_checks import networks, pictures
from device_checks.one import Given

NETWORKS = ("resnet50", "efficientnet_lite0", "resnet20")
TINY = ("efficientnet_lite0", "resnet20")
BOUND = 1e-4
_ON_CPU = 16  # images at a time; not as many as on the device, which changes no probability


def run(given: Given) -> None:
    rows, side, names = given.rows, given.size(1000, 32), given.size(NETWORKS, TINY)
    photos = pictures.files(given, given.size(64, 6))
    rows.note("photographs", f"{len(photos)}, {'the user' if given.photographs else 'generated'}")
    on_device = {}
    for name in names:
        spec = networks.spec_of(name, side)
        images = pictures.inputs(photos, networks.preprocessing_of(spec))
        engine = networks.distinct(spec, images)
        on_device[name] = networks.probabilities(engine, images)
        rows.note(f"{name}: where, and input", f"{engine.device}, {spec.input_shape}")
        (given.work / name).mkdir()
        save_file(networks.weights_of(engine), given.work / name / "weights.safetensors")
        np.save(given.work / name / "images.npy", images)
        engine.release()
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "IMAGE_CLASSIFICATION_DEVICE": "cpu"}
    program = [sys.executable, "-m", "device_checks.probabilities", str(side), str(given.work)]
    subprocess.run([*program, *names], env=hidden, check=True)
    for name in names:
        on_cpu = np.load(given.work / name / "cpu.npy")
        rows.note(f"{name}: median of the largest probability", float(np.median(on_cpu.max(1))))
        difference = np.abs(on_cpu - on_device[name]).max()
        rows.goal(f"{name}: largest difference", float(difference), "≤", BOUND)


def _compute_on_cpu(side: int, folder: Path, names: Sequence[str]) -> None:
    from device_checks.forward import Forward

    for name in names:
        weights = load_file(folder / name / "weights.safetensors")
        network = Forward(networks.spec_of(name, side), weights, "cpu")
        images = np.load(folder / name / "images.npy")
        batch = min(_ON_CPU, max(1, len(images) // 2))
        parts = [images[start : start + batch] for start in range(0, len(images), batch)]
        found = np.concatenate([network.probabilities(part) for part in parts])
        np.save(folder / name / "cpu.npy", found)


if __name__ == "__main__":
    _compute_on_cpu(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
