"""Print the compute capabilities for which the library of a CUDA image has code; runs in the image.

Argument: torch, tensorflow, mxnet or serve. Code for 7.5 is printed as sm_75, PTX as compute_75,
the newest version of PTX as ptx_8.5.
"""

import mmap
import re
import struct
import sys
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)  # begins a fat binary; then version, size of the head, size
VERSION = re.compile(rb"\.version (\d\.\d)")
LIBRARIES = {
    "serve": ("onnxruntime", "capi/libonnxruntime_providers_cuda.so"),
    "mxnet": ("mxnet", "libmxnet.so"),
    "tensorflow": ("tensorflow", "libtensorflow_cc.so.2"),
}


def listed(role: str) -> str:
    """Return the names, separated by blanks."""
    if role == "torch":
        import torch

        return str(torch._C._cuda_getArchFlags())
    with file_of(*LIBRARIES[role]).open("rb") as file:
        found = codes(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if role == "tensorflow":  # a few of its kernels have code for more GPUs than the others
        text = file_of("tensorflow", "python/platform/build_info.py").read_text("utf-8")
        found = {name for name in found if name.startswith("ptx")}
        found |= set(re.findall(r"'((?:sm|compute)_\d+)'", text))
    return " ".join(sorted(found))


def file_of(package: str, name: str) -> Path:
    """Return a file of a package, which is not imported."""
    spec = find_spec(package)
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], name)


def codes(data: mmap.mmap) -> set[str]:
    """Return the kinds of code in the fat binaries of a library."""
    found, versions = set(), set()
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
            if kind == 1:
                versions.add(version_of(data[entry + head : entry + head + min(size, 1000)]))
            entry += head + size
        at = data.find(MAGIC, end)
    if versions:
        found.add(f"ptx_{max(versions)}")
    return found


def version_of(code: bytes) -> str:
    """Return the version that PTX states in its first lines, as text or compressed with LZ4."""
    stated = VERSION.search(code) or VERSION.search(unpacked(code))
    return stated.group(1).decode() if stated else "0.0"


def unpacked(block: bytes, size: int = 400) -> bytes:
    """Return the first bytes of an LZ4 block, about `size` of them."""
    source, output = iter(block), bytearray()

    def length(first: int) -> int:
        """Return a length; 15 is continued by bytes, of which the last is not 255."""
        more = 255 if first == 15 else 0
        while more == 255:
            more = next(source)
            first += more
        return first

    with suppress(StopIteration):  # the last part has no repetition
        while len(output) < size:
            token = next(source)
            output += bytes(islice(source, length(token >> 4)))
            distance = next(source) | next(source) << 8
            for _ in range(length(token & 15) + 4):
                output.append(output[-distance])
    return bytes(output)


sys.stdout.write(listed(sys.argv[1]))
