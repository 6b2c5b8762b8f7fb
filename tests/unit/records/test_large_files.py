"""A million records: opening them costs memory for their index and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from image_classification.records.format import RecordHeader, pack_image_record

RECORDS = 1_000_000

# Memory of the process's own: pages of the file that the kernel keeps mapped can be taken back.
MEASURE = """
import sys
from pathlib import Path
from image_classification.loading.order import epoch_order
from image_classification.loading.records import RecordSource

def own_megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("RssAnon")) / 1024

before = own_megabytes()
source = RecordSource([Path(sys.argv[1])])
order = epoch_order(len(source), seed=0, epoch=0)
assert len(source) == 1_000_000 and source.read(int(order[7])).class_index == order[7] % 1000
assert source.key(999_999).endswith("#999999")
print(own_megabytes() - before)
"""


def write_million(path: Path) -> None:
    """What `RecordWriter` writes, a column at a time: every record has the same size."""
    record = np.frombuffer(pack_image_record(RecordHeader(0.0, 0), b"x" * 8), np.uint8)
    kind = np.dtype([("head", "<u4", 2), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"),
                     ("id2", "<u8"), ("content", "V8")])  # fmt: skip
    records = np.zeros(RECORDS, kind)
    records["head"] = (0xCED7230A, len(record))
    records["id"] = np.arange(RECORDS)
    records["label"] = records["id"] % 1000
    records.tofile(path)
    lines = (f"{n}\t{n * kind.itemsize}\n" for n in range(RECORDS))
    path.with_suffix(".idx").write_text("".join(lines))


def test_a_million_records_are_opened_and_ordered_in_less_than_100_megabytes(
    tmp_path: Path,
) -> None:
    write_million(tmp_path / "million.rec")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "million.rec")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 100, "megabytes"
    assert not done.stderr, "the index was not used"
