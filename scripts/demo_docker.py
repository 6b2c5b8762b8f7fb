"""Run the demo with the images: class folders → `docker run` train and serve → predictions.

It uses the data, hyperparameters and client of scripts/demo.py, and starts the containers with
scripts/train-local and scripts/serve-local.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import demo

WORK = Path("demo/docker")


def main() -> int:
    """Return 0 if the server predicted every held-out image."""
    start = time.monotonic()
    own = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    images = own or demo.write_digits(WORK / "images")
    run = WORK / "run"
    resize = ["--resize", "256"] if own else []
    os.environ["OUTPUT"] = str(run)
    os.environ["PREPROCESS"] = " ".join([*resize, *demo.ratios()])
    job = demo.PICTURES_JOB if own else demo.DIGITS_JOB
    command = [
        "scripts/train-local",
        str(images),
        *(f"{name}={value}" for name, value in job.items()),
    ]
    trained = time.monotonic()
    demo.show(command)
    code = subprocess.run(command).returncode
    if code:
        return code
    demo.say(f"preprocess and train took {time.monotonic() - trained:.0f} s")
    held_out = run / "channels" / "test"
    if not held_out.is_dir():
        raise SystemExit(f"{images}: the demo needs at least three images per class")
    port = demo.free_port()
    os.environ["PORT"] = str(port)
    accuracy = demo.query(["scripts/serve-local", str(run / "model")], port, held_out)
    demo.say(f"accuracy over HTTP: {100 * accuracy:.1f}%")
    demo.say(f"artifact: {run / 'model'}; serve it again: scripts/serve-local {run / 'model'}")
    demo.say(f"done in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
