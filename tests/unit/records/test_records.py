"""Record files: the byte layout of MXNet, damage, indices, and reading from threads."""

from __future__ import annotations

import logging
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_classification.errors import RecordError
from image_classification.records import format as record_format
from image_classification.records.format import (
    RECORD_MAGIC,
    ImageRecord,
    RecordHeader,
    frame_parts,
    pack_image_record,
    unpack_image_record,
)
from image_classification.records.reader import RecordFile
from image_classification.records.writer import RecordWriter

MAGIC = RECORD_MAGIC.to_bytes(4, "little")


def part(kind: int, payload: bytes, padding: bytes | None = None) -> bytes:
    padding = b"\0" * (-len(payload) % 4) if padding is None else padding
    return struct.pack("<II", RECORD_MAGIC, kind << 29 | len(payload)) + payload + padding


def write_file(folder: Path, content: bytes, index: str | None = None) -> Path:
    path = folder / "data.rec"
    path.write_bytes(content)
    if index is not None:
        path.with_suffix(".idx").write_text(index)
    return path


def read_all(path: Path, resync: bool = False) -> list[bytes]:
    with RecordFile(path, resync=resync) as file:
        return [file.read(number) for number in range(len(file))]


# Spec 6.1: written and read back by MXNet 1.9.1.
FRAMED = [
    ([b""], "0a23d7ce 00000000"),
    ([b"A"], "0a23d7ce 01000000 41000000"),
    ([b"ABCD"], "0a23d7ce 04000000 41424344"),
    ([b"ABCDE"], "0a23d7ce 05000000 41424344 45000000"),
    ([b"x", b"yy"], "0a23d7ce 01000000 78000000 0a23d7ce 02000000 79790000"),
    ([MAGIC], "0a23d7ce 00000020 0a23d7ce 00000060"),
    ([MAGIC * 2], "0a23d7ce 00000020 0a23d7ce 00000040 0a23d7ce 00000060"),
    ([MAGIC + b"ABCD"], "0a23d7ce 00000020 0a23d7ce 04000060 41424344"),
    ([b"ABCD" + MAGIC], "0a23d7ce 04000020 41424344 0a23d7ce 00000060"),
    (
        [b"ABCD" + MAGIC + b"EFGHI"],
        "0a23d7ce 04000020 41424344 0a23d7ce 05000060 45464748 49000000",
    ),
    (
        [b"AAAA" + MAGIC + b"BBBB" + MAGIC + b"CC"],
        "0a23d7ce 04000020 41414141 0a23d7ce 04000040 42424242 0a23d7ce 02000060 43430000",
    ),
    ([b"ABC" + MAGIC + b"D"], "0a23d7ce 08000000 4142430a 23d7ce44"),
    ([b"ABCD" + MAGIC[:3]], "0a23d7ce 07000000 41424344 0a23d700"),
]


@pytest.mark.parametrize(("payloads", "hexadecimal"), FRAMED)
def test_records_are_framed_and_read_as_mxnet_does(
    tmp_path: Path, payloads: list[bytes], hexadecimal: str
) -> None:
    path = tmp_path / "data.rec"
    with RecordWriter(path) as writer:
        for key, payload in enumerate(payloads):
            writer.write(payload, key)
    assert path.read_bytes().hex() == hexadecimal.replace(" ", "")
    assert read_all(path) == payloads
    path.with_suffix(".idx").unlink()
    assert read_all(path) == payloads


IMAGE_RECORDS = [
    (
        RecordHeader(4, 2574),
        b"xyz",
        "00000000 00008040 0e0a0000 00000000 00000000 00000000 78797a",
    ),
    (RecordHeader(4, 1, 2), b"", "00000000 00008040 01000000 00000000 02000000 00000000"),
    (
        RecordHeader((1, 2, 3), 5),
        b"zz",
        "03000000 00000000 05000000 00000000 00000000 00000000 0000803f 00000040 00004040 7a7a",
    ),
    (
        RecordHeader((1.5,), 5),
        b"zz",
        "01000000 00000000 05000000 00000000 00000000 00000000 0000c03f 7a7a",
    ),
    (
        RecordHeader((1, 2), 2**40, 3),
        b"",
        "02000000 00000000 00000000 00010000 03000000 00000000 0000803f 00000040",
    ),
]


@pytest.mark.parametrize(("header", "content", "hexadecimal"), IMAGE_RECORDS)
def test_image_records_are_packed_and_unpacked_as_mxnet_does(
    header: RecordHeader, content: bytes, hexadecimal: str
) -> None:
    packed = pack_image_record(header, content)
    assert packed.hex() == hexadecimal.replace(" ", "")
    assert unpack_image_record(packed) == ImageRecord(header, content)


def test_an_empty_label_sequence_reads_back_as_zero_as_in_mxnet() -> None:
    packed = pack_image_record(RecordHeader((), 9), b"q")
    assert packed.hex() == "0000000000000000" + "0900000000000000" + "0" * 16 + "71"
    assert unpack_image_record(packed).header == RecordHeader(0.0, 9)


def test_an_image_id_that_looks_like_the_magic_splits_the_record(tmp_path: Path) -> None:
    path = tmp_path / "data.rec"
    record = pack_image_record(RecordHeader(2.0, RECORD_MAGIC), b"image")
    with RecordWriter(path) as writer:
        writer.write(record, 0)
    assert path.read_bytes()[:24].hex() == "0a23d7ce0800002000000000000000400a23d7ce11000060"
    with RecordFile(path) as file:
        assert file.read(0) == record
        assert file.record_headers["id"].tolist() == [RECORD_MAGIC]
        assert file.record_labels().tolist() == [2.0]
        assert file.record_sizes().tolist() == [len(record)]


@pytest.mark.parametrize("identifier", [-1, 2**64])
def test_an_id_that_does_not_fit_is_refused(identifier: int) -> None:
    with pytest.raises(RecordError, match=r"id from 0 to 2\*\*64"):
        pack_image_record(RecordHeader(0, identifier), b"")


def test_a_record_of_half_a_gigabyte_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record_format.MAX_RECORD_BYTES == 2**29 - 1
    monkeypatch.setattr(record_format, "MAX_RECORD_BYTES", 7)
    frame_parts(b"1234567")
    with pytest.raises(RecordError, match="below 2"):
        frame_parts(b"12345678")


def test_index_lines_are_in_writing_order_and_keys_may_repeat(tmp_path: Path) -> None:
    path = tmp_path / "data.rec"
    with RecordWriter(path) as writer:
        offsets = [writer.write(b"rec%d" % i, key) for i, key in enumerate((5, 0, 5, 10))]
        assert writer.position == 48
    assert offsets == [0, 12, 24, 36]
    assert path.with_suffix(".idx").read_text() == "5\t0\n0\t12\n5\t24\n10\t36\n"
    with RecordFile(path) as file:
        assert file.keys is not None and file.keys.tolist() == [5, 0, 5, 10]


payloads_rich_in_magic = st.lists(
    st.one_of(st.just(MAGIC), st.just(MAGIC[:3]), st.just(b"\0"), st.binary(max_size=9)),
    max_size=8,
).map(b"".join)


@given(st.lists(payloads_rich_in_magic, max_size=6))
def test_any_payloads_survive_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("round") / "data.rec"
    with RecordWriter(path) as writer:
        for key, payload in enumerate(payloads):
            writer.write(payload, key)
    with RecordFile(path) as file:
        assert file.index_problem is None
        assert [file.read(number) for number in range(len(file))] == payloads
        assert file.record_sizes().tolist() == [len(payload) for payload in payloads]
    path.with_suffix(".idx").unlink()
    assert read_all(path) == payloads


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.floats(width=32, allow_nan=False),
                st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4).map(tuple),
                st.just(struct.unpack("<f", MAGIC)[0]),
            ),
            st.one_of(st.integers(0, 2**64 - 1), st.just(RECORD_MAGIC)),
            payloads_rich_in_magic,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_gathered_headers_are_those_of_the_single_records(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[float | tuple[float, ...], int, bytes]],
) -> None:
    path = tmp_path_factory.mktemp("headers") / "data.rec"
    with RecordWriter(path) as writer:
        for label, identifier, content in records:
            writer.write(pack_image_record(RecordHeader(label, identifier), content), identifier)
    with RecordFile(path) as file:
        for number, (label, identifier, content) in enumerate(records):
            assert file.read_image(number) == ImageRecord(RecordHeader(label, identifier), content)
        firsts = [RecordHeader(label).labels[0] for label, _, _ in records]
        assert file.record_labels().tolist() == firsts
        assert file.record_headers["id"].tolist() == [identifier for _, identifier, _ in records]


GOOD = part(0, b"good")

# Spec 1.2, column "Ours": what is wrong, where (byte, record), and what the message says.
DAMAGE = [
    ("wrong magic", GOOD + b"\1" * 12, 12, 1, "expected the magic 0a23d7ce, got 01010101"),
    ("7 bytes left for a header", GOOD + part(0, b"")[:7], 12, 1, "header of 8 bytes, got 7"),
    ("1 byte left for a header", GOOD + b"\n", 12, 1, "header of 8 bytes, got 1"),
    ("payload cut short", GOOD + part(0, b"ABCDEFGH")[:-1], 12, 1, "8 bytes of payload, got 7"),
    ("file ends after a first part", GOOD + part(1, b"ABCD"), 24, 1, "before the last part"),
    (
        "file ends after a middle part",
        GOOD + part(1, b"ABCD") + part(2, b"EFGH"),
        36,
        1,
        "before the last part",
    ),
    ("a record begins with a middle part", GOOD + part(2, b"ABCD"), 12, 1, "0 or 1, got kind 2"),
    ("a record begins with a last part", GOOD + part(3, b"ABCD"), 12, 1, "0 or 1, got kind 3"),
    (
        "a whole record after a first part",
        GOOD + part(1, b"ABCD") + GOOD,
        24,
        1,
        "2 or 3, got kind 0",
    ),
    (
        "a first part after a first part",
        GOOD + part(1, b"ABCD") + part(1, b"ABCD"),
        24,
        1,
        "2 or 3, got kind 1",
    ),
    *[
        (f"a part of kind {kind}", GOOD + part(kind, b"ABCD"), 12, 1, f"got kind {kind}")
        for kind in (4, 5, 6, 7)
    ],
    ("nothing but zeros", b"\0" * 16, 0, 0, "expected the magic"),
]


@pytest.mark.parametrize(
    ("content", "byte", "record", "message"),
    [row[1:] for row in DAMAGE],
    ids=[row[0] for row in DAMAGE],
)
def test_damage_is_reported_with_file_byte_and_record(
    tmp_path: Path, content: bytes, byte: int, record: int, message: str
) -> None:
    path = write_file(tmp_path, content)
    with pytest.raises(RecordError) as raised:
        RecordFile(path)
    assert f"{path}: damaged at byte {byte}, record {record}: " in str(raised.value)
    assert message in str(raised.value)
    assert "resync" in str(raised.value)


ALIGNED_DAMAGE = [row for row in DAMAGE if len(row[1]) % 4 == 0]


@pytest.mark.parametrize("row", ALIGNED_DAMAGE, ids=[row[0] for row in ALIGNED_DAMAGE])
def test_resync_skips_damage_and_keeps_the_sound_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: tuple[str, bytes, int, int, str]
) -> None:
    path = write_file(tmp_path, row[1] + part(0, b"last"))
    records = read_all(path, resync=True)
    assert records[-1] == b"last"
    assert records[: row[3]] == [b"good"] * row[3]
    assert "skipped" in caplog.text and str(path) in caplog.text


def test_resync_drops_a_record_that_was_cut_and_has_swallowed_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = part(0, b"ABCDEFGHIJKL")[:-8]
    path = write_file(tmp_path, GOOD + cut + part(0, b"second") + GOOD)
    assert read_all(path, resync=True) == [b"good", b"second", b"good"]
    assert len(caplog.messages) == 1


def test_resync_is_not_misled_by_an_unaligned_magic(tmp_path: Path) -> None:
    broken = b"\1" * 12 + b"xyz" + MAGIC + struct.pack("<I", 4) + b"fake" + b"\1"
    path = write_file(tmp_path, GOOD + broken + part(0, b"last"))
    assert read_all(path, resync=True) == [b"good", b"last"]


def test_a_missing_padding_at_the_end_is_accepted_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_file(tmp_path, GOOD + part(0, b"ABCDE", padding=b""))
    assert read_all(path) == [b"good", b"ABCDE"]
    assert "padding of zero bytes is missing" in caplog.text


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_split_record_without_its_last_padding_is_accepted(tmp_path: Path, missing: int) -> None:
    payload = MAGIC + b"A" * (4 - missing)
    path = write_file(tmp_path, b"".join(frame_parts(payload))[:-missing])
    assert read_all(path) == [payload]


@pytest.mark.parametrize("zeros", [1, 4, 7, 8, 4096])
def test_zero_bytes_after_the_last_record_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, zeros: int
) -> None:
    path = write_file(tmp_path, GOOD + b"\0" * zeros)
    assert read_all(path) == [b"good"]
    assert f"{zeros} zero bytes after the last record" in caplog.text


def test_a_part_in_the_middle_may_have_any_length(tmp_path: Path) -> None:
    path = write_file(tmp_path, part(1, b"ABCDE") + part(3, b"F") + GOOD)
    assert read_all(path) == [b"ABCDE" + MAGIC + b"F", b"good"]


def test_padding_that_is_not_zero_is_ignored(tmp_path: Path) -> None:
    path = write_file(tmp_path, part(0, b"ABCDE", padding=b"xyz") + GOOD)
    assert read_all(path) == [b"ABCDE", b"good"]


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    with RecordFile(write_file(tmp_path, b"")) as file:
        assert len(file) == 0
        assert file.record_labels().tolist() == []


def test_a_missing_file_is_reported_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"absent\.rec: the record file cannot be read"):
        RecordFile(tmp_path / "absent.rec")


TWO = GOOD + part(0, b"second!!")

WRONG_INDICES = [
    ("0\t0\n1\t16\n", "no record starts at its offset 16"),
    ("0\t0\n1\t13\n", "its offset 13 is not a record start"),
    ("0\t0\n1\t4000\n", "its offset 4000 is not a record start"),
    ("0\t0\n", "its last record ends at byte 12"),
    ("1\t12\n", "disagrees about the record at byte 0"),
    ("0\t0\n1\t12\n1\t12\n", "disagrees about the record at byte"),
    ("", "it is empty"),
    ("0 zero\n", "line 1: expected KEY<TAB>OFFSET"),
    ("0\t0\n1\n", "line 2: expected KEY<TAB>OFFSET"),
    ("-1\t0\n1\t12\n", "line 1: expected KEY<TAB>OFFSET"),
    ("99999999999999999999\t0\n1\t12\n", "line 1: expected KEY<TAB>OFFSET"),
]


@pytest.mark.parametrize(("index", "problem"), WRONG_INDICES)
def test_a_wrong_index_next_to_the_file_is_reported_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, index: str, problem: str
) -> None:
    path = write_file(tmp_path, TWO, index)
    with RecordFile(path) as file:
        assert [file.read(number) for number in range(len(file))] == [b"good", b"second!!"]
        assert file.keys is None
        assert file.index_problem is not None and problem in file.index_problem
    assert len(caplog.messages) == 1
    assert problem in caplog.text and "the record file is scanned" in caplog.text


@pytest.mark.parametrize(("index", "problem"), WRONG_INDICES)
def test_a_wrong_index_that_is_given_explicitly_is_an_error(
    tmp_path: Path, index: str, problem: str
) -> None:
    path = write_file(tmp_path, TWO)
    given = tmp_path / "given.idx"
    given.write_text(index)
    with pytest.raises(RecordError, match=r"given\.idx") as raised:
        RecordFile(path, given)
    assert problem in str(raised.value)


def test_an_index_that_is_given_explicitly_must_exist(tmp_path: Path) -> None:
    path = write_file(tmp_path, TWO)
    with pytest.raises(
        RecordError, match=r"^\S*absent\.idx: the index cannot be read: No such file"
    ):
        RecordFile(path, tmp_path / "absent.idx")


@pytest.mark.parametrize(
    "index",
    [
        "7\t0\n9\t12\n",
        "7\t0\r\n9\t12\r\n",
        "7\t0\n\n9\t12",
        "7 0\n9 12\n",
        "7\t0\t1\n9\t12\t1\n",
        "9\t12\n7\t0\n",
    ],
)
def test_an_index_may_be_written_in_any_way_that_mxnets_readers_accept(
    tmp_path: Path, index: str
) -> None:
    with RecordFile(write_file(tmp_path, TWO, index)) as file:
        assert file.index_problem is None
        assert file.keys is not None and file.keys.tolist() == [7, 9]
        assert file.read(1) == b"second!!"


def test_an_index_of_split_records_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "data.rec"
    with RecordWriter(path) as writer:
        for key in range(3):
            writer.write(b"ABCD" + MAGIC + b"E", key)
    with RecordFile(path) as file:
        assert file.index_problem is None


def test_a_damaged_file_is_detected_despite_its_index(tmp_path: Path) -> None:
    path = write_file(tmp_path, TWO[:-1], "0\t0\n1\t12\n")
    with pytest.raises(RecordError, match="damaged at byte 12, record 1"):
        RecordFile(path)


@pytest.mark.parametrize(
    "payload", [b"", b"x" * 23, struct.pack("<IfQQ", 3, 0, 0, 0) + b"12345678"]
)
def test_a_record_too_short_for_its_header_is_reported_by_number(
    tmp_path: Path, payload: bytes
) -> None:
    good = pack_image_record(RecordHeader(1), b"image")
    path = write_file(tmp_path, b"".join(frame_parts(good) + frame_parts(payload)))
    with RecordFile(path) as file:
        for read in (file.record_labels, lambda: file.read_image(1)):
            with pytest.raises(RecordError, match=r"data\.rec: record 1 at byte 40: expected"):
                read()


def test_many_threads_read_the_same_records(tmp_path: Path) -> None:
    path = tmp_path / "data.rec"
    generator = np.random.default_rng(0)
    payloads = [generator.bytes(int(size)) for size in generator.integers(0, 5000, 300)]
    with RecordWriter(path) as writer:
        for key, payload in enumerate(payloads):
            writer.write(payload, key)
    with RecordFile(path) as file, ThreadPoolExecutor(8) as threads:
        order = generator.permutation(np.tile(np.arange(300), 5)).tolist()
        assert list(threads.map(file.read, order)) == [payloads[number] for number in order]


def test_a_failed_writer_leaves_nothing_and_keeps_the_old_files(tmp_path: Path) -> None:
    path = write_file(tmp_path, GOOD, "0\t0\n")
    with pytest.raises(RuntimeError), RecordWriter(path) as writer:
        writer.write(b"new", 1)
        raise RuntimeError
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.idx", "data.rec"]
    assert path.read_bytes() == GOOD
    assert path.with_suffix(".idx").read_text() == "0\t0\n"


def test_files_appear_only_when_the_writer_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data.rec"
    with RecordWriter(path) as writer:
        writer.write(b"payload", 0)
        assert not path.exists() and not path.with_suffix(".idx").exists()
    assert sorted(file.name for file in path.parent.iterdir()) == ["data.idx", "data.rec"]


def test_a_closed_file_cannot_be_read(tmp_path: Path) -> None:
    file = RecordFile(write_file(tmp_path, GOOD))
    file.record_sizes()
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(0)


def test_a_sound_file_is_opened_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    read_all(write_file(tmp_path, TWO, "0\t0\n1\t12\n"))
    assert not caplog.messages
