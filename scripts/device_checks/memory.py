"""A batch that does not fit into the memory ends a job with one sentence that tells what to do.

On a GPU the batch is larger than its memory. On the CPU the job gets a limit: `python -m
device_checks.memory BYTES WORDS…` runs a command of the product that can take so much more than
PyTorch takes when it is loaded.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from device_checks import jobs
from device_checks.one import Given

_SENTENCE = "ClientError: out of memory: set a smaller mini_batch_size"
_BYTES_PER_IMAGE = 150 << 20  # ResNet-50 takes more in float32 for 448 pixels; measured are 350 MB
_MORE_ON_CPU = 400 << 20


def run(given: Given) -> None:
    rows, images = given.rows, 64
    job = jobs.TINY | {"image_shape": "3,224,224", "resize": "224"}
    if not given.cpu:
        import torch

        memory = torch.cuda.get_device_properties(0).total_memory
        images = min(2000, memory // _BYTES_PER_IMAGE + 1)
        job |= {"num_layers": "50", "image_shape": "3,448,448", "resize": "448"}
    job |= {"mini_batch_size": str(images), "epochs": "1", "precision": "float32"}
    base = jobs.write(given, job, images)
    rows.note("batch", f"{images} images, {job['image_shape']}, ResNet-{job['num_layers']}")
    log = given.work / "memory.log"
    words = ["train", "--base-dir", str(base)]
    if given.cpu:
        with log.open("wb") as file:
            program = [sys.executable, "-m", "device_checks.memory", str(_MORE_ON_CPU)]
            code = subprocess.run([*program, *words], stdout=file, stderr=file).returncode
    else:
        process = jobs.start(words, log)
        code = process.wait()
    jobs.show(log)
    rows.expect("exit status", code, 2)
    failure = base / "output" / "failure"
    text = failure.read_text("utf-8") if failure.is_file() else "no failure file"
    rows.note("failure file", text.strip())
    rows.expect("its beginning", text[: len(_SENTENCE)], _SENTENCE)
    rows.expect("lines of the failure file", len(text.strip().splitlines()), 1)


def _limited(more: int, words: list[str]) -> int:
    """Run a command of the product with a limit of memory.

    What the libraries reserve differs between machines, so they are loaded before the limit is set.
    """
    import torch._dynamo  # noqa: F401 - an optimizer loads it

    from image_classification import cli
    from image_classification.backends.torch import engine  # noqa: F401
    from image_classification.training import job  # noqa: F401

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))
    return cli.main(words)


if __name__ == "__main__":
    os.environ["MALLOC_ARENA_MAX"] = "2"  # each thread would reserve 64 MB
    sys.exit(_limited(int(sys.argv[1]), sys.argv[2:]))
