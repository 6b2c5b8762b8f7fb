"""Two training processes share one device: they sum with gloo, because NCCL refuses them."""

from __future__ import annotations

import subprocess
from contextlib import suppress

from device_checks import jobs
from device_checks.one import Given

_SECONDS = 60


def run(given: Given) -> None:
    rows, images, epochs = given.rows, given.size(640, 16), given.size(3, 1)
    job = jobs.TINY | {"mini_batch_size": given.size("64", "8"), "epochs": str(epochs)}
    base = jobs.write(given, job, images)
    log = given.work / "ranks.log"
    environment = {
        "IMAGE_CLASSIFICATION_PROCESSES": "2",
        "MASTER_PORT": str(jobs.free_port()),
    }
    process = jobs.start(["train", "--base-dir", base], log, environment)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_SECONDS)
    jobs.show(log)
    text = log.read_text("utf-8", "replace")
    rows.expect("exit status", "none" if process.poll() is None else process.returncode, 0)
    rows.expect("in two processes", str("Training in 2 processes" in text), "True")
    found = jobs.epochs_of(base)
    rows.expect("epochs", len(found), epochs)
    rows.expect("losses are finite", str(jobs.have_finite_losses(found)), "True")
    rows.note("images/s", ", ".join(f"{epoch['images_per_second']:.0f}" for epoch in found))
    has_model = (base / "model" / "manifest.json").is_file()
    rows.expect("artifact", "there" if has_model else "none", "there")
