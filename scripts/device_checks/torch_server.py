"""The product's server with PyTorch in the place of ONNX Runtime: the batcher and a real device.

Where ONNX Runtime has no CUDA, this runs the batcher, the processes and the HTTP server on the GPU
all the same. `python -m device_checks.torch_server MODEL PORT` serves until SIGTERM; on a machine
without a GPU it computes on the CPU in batches.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from image_classification.devices import Decision
from image_classification.serving import decoding, server
from image_classification.serving.admission import Plan


def main(model: Path, port: int) -> None:
    whole_plan, whole_forkserver = server.choose_plan, decoding.open_forkserver

    def choose_plan(cpus: int, memory: int, **_: bool) -> Plan:
        return whole_plan(cpus, memory, on_gpu=True)

    def open_forkserver() -> Any:
        """Replace the runtime when the worker has forked: neither library survives a fork."""
        found = whole_forkserver()
        from device_checks.torch_runtime import TorchRuntime
        from image_classification.serving import runtime

        runtime.Runtime = TorchRuntime
        return found

    server.choose_plan, decoding.open_forkserver = choose_plan, open_forkserver
    server.serving_device = lambda: Decision("cuda")
    server.serve(model, "127.0.0.1", port)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
