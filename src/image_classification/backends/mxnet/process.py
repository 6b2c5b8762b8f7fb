"""What must be set in a process before MXNet is loaded, for the sake of speed on CPUs.

- memory: MXNet returns every activation to the C library, and by default glibc returns it to the
  kernel, which clears every 4 KB page again (`backends/torch/process.py`). Kept, in large pages, in
  CPU time: a training step of 8 images, EfficientNet-Lite0 at 224 pixels, 1.22 → 1.15 s.
- threads: one worker of MXNet's engine, because each worker would open an OpenMP team of its own.
  The size of that team is fixed when MXNet is loaded, and is half of the CPUs unless said. The
  core has read OMP_NUM_THREADS: here it becomes what the core made of it.
- waiting: OpenMP's threads wait for each other in a busy loop, which starves the threads that
  decode images (see there).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1  # <malloc.h>
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def prepare(threads: int) -> None:
    """Set all for a process of so many threads; does nothing where the C library is not glibc.

    The variables are set in the C library, which is where OpenMP and MXNet look for them; but for
    the number of threads one that has a value keeps it.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    variables = {
        "THP_MEM_ALLOC_ENABLE": "1",
        "GOMP_SPINCOUNT": "1000",
        "MXNET_CPU_WORKER_NTHREADS": "1",
    }
    for name, value in variables.items():
        library.setenv(name.encode(), value.encode(), 0)
    library.setenv(b"OMP_NUM_THREADS", str(threads).encode(), 1)
