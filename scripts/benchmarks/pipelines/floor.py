"""libjpeg-turbo alone: every file decoded whole, nothing else. No pipeline that decodes whole files
can be faster."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import simplejpeg
from worker import Job, serve


def run_pass(job: Job, variant: str, threads: int) -> int:
    """Decode all files in threads."""

    def decode(part: list[str]) -> None:
        for path in part:
            simplejpeg.decode_jpeg(Path(path).read_bytes(), fastdct=True, fastupsample=True)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, [job.files[k :: 2 * threads] for k in range(2 * threads)]))
    return len(job.files)


if __name__ == "__main__":
    serve(simplejpeg.__version__, run_pass, None)
