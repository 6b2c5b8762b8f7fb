"""Print the compute capabilities for which the library of a CUDA image has code; runs in the image.

Argument: torch, tensorflow, mxnet or serve. Code for 7.5 is printed as sm_75, PTX as compute_75.
"""

import mmap
import re
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)  # begins a fat binary; then version, size of the head, size
LIBRARIES = {
    "serve": ("onnxruntime", "capi/libonnxruntime_providers_cuda.so"),
    "mxnet": ("mxnet", "libmxnet.so"),
}


def listed(role: str) -> str:
    """Return the names, separated by blanks."""
    if role == "torch":
        import torch

        return str(torch._C._cuda_getArchFlags())
    if role == "tensorflow":
        text = file_of("tensorflow", "python/platform/build_info.py").read_text("utf-8")
        return " ".join(re.findall(r"'((?:sm|compute)_\d+)'", text))
    with file_of(*LIBRARIES[role]).open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return " ".join(sorted(codes(data)))


def file_of(package: str, name: str) -> Path:
    """Return a file of a package, which is not imported."""
    spec = find_spec(package)
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], name)


def codes(data: mmap.mmap) -> set[str]:
    """Return the kinds of code in the fat binaries of a library."""
    found = set()
    at = data.find(MAGIC)
    while at >= 0:
        head, size = struct.unpack_from("<HQ", data, at + 6)
        end = at + 16 + size
        if head != 16 or not 0 < size <= len(data) - at - 16:
            at = data.find(MAGIC, at + 4)
            continue
        entry = at + 16
        while entry + 32 <= end:
            # kind (1: PTX, 2: machine code), version, size of the head, size; at 28 the capability
            kind, _, head, size = struct.unpack_from("<HHIQ", data, entry)
            (capability,) = struct.unpack_from("<I", data, entry + 28)
            found.add(f"{'compute' if kind == 1 else 'sm'}_{capability}")
            entry += head + size
        at = data.find(MAGIC, end)
    return found


sys.stdout.write(listed(sys.argv[1]))
