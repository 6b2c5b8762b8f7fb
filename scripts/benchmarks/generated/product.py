"""Runs the product in this process on a case, and counts what it used.

Records are read by code of its own: a reader that loses a record must not hide a writer's loss.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from generated.case import Case, Outcome, digest

_MAGIC = 0xCED7230A
# Reasons of `findings.json` and `check` that count folders, links or lines instead of files.
_NOT_FILES = ("class folder", "link", "line", "folder")
_LEFT_OUT = re.compile(r"(\d+) (?:samples? without an image|images? without a label)")
_UNLISTED = re.compile(r"(\d+) images? that the list does not name")
_SAID_OF_LOSS = re.compile(r"no mark of an end: is it truncated")


def run(case: Case, folder: Path) -> Outcome:
    """Run the case's command; `folder` is for what it writes."""
    return COMMANDS[case.command](case, folder)


def _main(words: list[str]) -> tuple[int, str, str]:
    """Run a command line; return exit code, standard output and standard error."""
    from image_classification.cli import main

    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return code, out.getvalue(), error.getvalue()


def _preprocess(case: Case, folder: Path) -> Outcome:
    output = folder / "channels"
    words = ["preprocess", "--input", str(case.path), "--output", str(output), "--workers", "1"]
    code, _, error = _main([*words, *case.options])
    outcome = Outcome(code, error)
    if code:
        if output.exists() and any(output.iterdir()):
            outcome.code, outcome.error = 1, f"{error}\na failed run left {output}"
        return outcome
    findings = json.loads((output / "findings.json").read_text("utf-8"))
    outcome.skipped = sum(len(split["left_out"]) for split in findings["splits"].values())
    outcome.skipped += sum(
        row["count"] for row in findings["not_taken"] if not row["what"].startswith(_NOT_FILES)
    )
    outcome.skipped += _left_out_in_log(error)
    outcome.says_truncated = bool(_SAID_OF_LOSS.search(error))
    names = json.loads((output / "labels.json").read_text("utf-8"))["labels"]
    is_multi_label = findings.get("multi_label", False)
    is_encoded = "--resize" in case.options  # again, so that other bytes are written
    for path in sorted(path for path in output.glob("*/*.rec") if path.is_file()):
        for numbers, content in read_records(path):
            if is_multi_label:
                present = sorted(names[i] for i, bit in enumerate(numbers) if bit)
            else:
                present = [names[int(numbers[0])]]
            outcome.used.append(("" if is_encoded else digest(content), "|".join(present)))
    if "folders" in case.options:
        for path in output.glob("*/*/*"):
            label = os.fsencode(path.parent.name).decode("utf-8", "backslashreplace")
            outcome.used.append((digest(path.read_bytes()), label))
    return outcome


def _left_out_in_log(error: str) -> int:
    return sum(int(count) for count in _LEFT_OUT.findall(error))


def read_records(path: Path) -> Iterator[tuple[tuple[float, ...], bytes]]:
    """Yield labels and content of a record file's records."""
    data, position = path.read_bytes(), 0
    payload = b""
    while position < len(data):
        magic, head = struct.unpack_from("<II", data, position)
        kind, size = head >> 29, head & (1 << 29) - 1
        assert magic == _MAGIC, f"{path}: byte {position}"
        part = data[position + 8 : position + 8 + size]
        payload = part if kind in (0, 1) else payload + struct.pack("<I", _MAGIC) + part
        position += 8 + size + -size % 4
        if kind in (0, 3) and len(payload) < 24 + 4 * int.from_bytes(payload[:4], "little"):
            yield (), payload  # it has no image header
        elif kind in (0, 3):
            flag, label = struct.unpack_from("<If", payload)
            labels = struct.unpack_from(f"<{flag}f", payload, 24) if flag else (label,)
            yield labels, payload[24 + 4 * flag :]


def _check(case: Case, folder: Path) -> Outcome:
    words = ["check", str(case.path), "--json", "--workers", "1", *case.options]
    code, text, error = _main(words)
    if code not in (0, 1):
        return Outcome(code, error)
    try:
        found = json.loads(text)
    except ValueError:
        return Outcome(1, f"{error}\nno JSON: {text[:200]}")
    damaged = [p["message"] for p in found["problems"] if p["kind"] == "damaged"]
    if damaged:  # reported with the other problems instead of refused
        return Outcome(2, f"ClientError: {damaged[0]}")
    outcome = Outcome(0, error, says_truncated=bool(_SAID_OF_LOSS.search(error)))
    outcome.skipped = _left_out_in_log(error) + sum(
        int(match[1])
        for problem in found["problems"]
        if (match := re.search(r": (\d+) (.*), such as ", problem["message"], re.DOTALL))
        and not match[2].startswith(_NOT_FILES)
    )
    if any(problem["kind"].endswith(("multi-label", "-labels")) for problem in found["problems"]):
        outcome.is_labeled = False  # it counts the images of each class, not those of each set
    for part in found["parts"]:
        labels = [name for name, n in part["class_counts"].items() for _ in range(n)]
        # Unusable images have labels too; labels that are no classes are not counted.
        outcome.used += [("", label) for label in labels[: part["images"]]]
        outcome.used += [("", "")] * (part["images"] - len(labels))
    return outcome


def _channel(case: Case, folder: Path) -> Outcome:
    """Open a folder as a training channel, and read every sample."""
    from image_classification import logs
    from image_classification.contract.channels import ChannelInput
    from image_classification.contract.failure import report_failure
    from image_classification.errors import DataError
    from image_classification.loading.sources import FolderSource
    from image_classification.training.sources import Expected, open_channel

    error = io.StringIO()
    outcome = Outcome(0)
    with redirect_stderr(error):
        logs.configure(0, sys.stderr)
        try:
            listing = ChannelInput("train_lst", Path(case.options[0])) if case.options else None
            channel = ChannelInput("train", case.path)
            source, labels = open_channel(channel, listing, Expected(None, None))
            if isinstance(source, FolderSource):
                outcome.skipped += sum(
                    count
                    for what, count, _ in source.left_out.reasons()
                    if not what.startswith(_NOT_FILES)
                )
            for index in range(len(source)):
                try:
                    sample = source.read(index)
                except DataError as bad:
                    assert str(bad)
                    outcome.skipped += 1
                    continue
                label = labels.names[sample.class_index]
                outcome.used.append((digest(sample.data), label))
            source.close()
        except Exception as wrong:
            outcome.code = report_failure(wrong, None)
    outcome.error = error.getvalue()
    outcome.skipped += _left_out_in_log(outcome.error)
    outcome.skipped += sum(int(count) for count in _UNLISTED.findall(outcome.error))
    outcome.says_truncated = bool(_SAID_OF_LOSS.search(outcome.error))
    return outcome


def _extract(case: Case, folder: Path) -> Outcome:
    """Extract the images of a record file into class folders."""
    target = folder / "extracted"
    words = ["inspect", str(case.path), "--extract", str(target), "--json", *case.options]
    code, text, error = _main(words)
    outcome = Outcome(code, error)
    if code == 0:
        extracted = json.loads(text)["extracted"]
        outcome.skipped = extracted["empty"] + extracted["others"]
        listed = _labels_in_list(target / "extracted.lst")
        for path in target.rglob("*"):
            if path.is_file() and path.suffix not in (".bin", ".lst"):
                label = listed.get(path.name) or f"{float(path.parent.name):g}"
                outcome.used.append((digest(path.read_bytes()), label))
    return outcome


def _labels_in_list(path: Path) -> dict[str, str]:
    """Return file → all its labels; {} without a list."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.split("\t") for line in lines]
    return {row[-1]: "|".join(f"{float(label):g}" for label in row[1:-1]) for row in rows}


def _salvage(case: Case, folder: Path) -> Outcome:
    """Save the sound records of a damaged file."""
    target = folder / "salvaged.rec"
    words = ["inspect", str(case.path), "--on-damage", "resync", "--salvage", str(target), "--json"]
    code, text, error = _main([*words, *case.options])
    outcome = Outcome(code, error)
    if code == 0:
        lost = json.loads(text)["lost"]
        for labels, content in read_records(target):
            outcome.used.append((digest(content), "|".join(f"{number:g}" for number in labels)))
        # Behind bytes that were inserted no record is at a multiple of 4; the bytes are counted.
        outcome.says_truncated = lost["skipped_bytes"] > 0
    return outcome


def _pack(case: Case, folder: Path) -> Outcome:
    target = folder / "packed.rec"
    listing, *options = case.options
    words = ["pack", listing, str(case.path), "--output", str(target), "--json", "--workers", "1"]
    code, text, error = _main([*words, *options])
    outcome = Outcome(code, error)
    if code == 0:
        outcome.skipped = len(json.loads(text)["skipped"])
        for labels, content in read_records(target):
            label = "|".join(f"{number:g}" for number in labels)
            outcome.used.append((digest(content), label))
    return outcome


def _predict(case: Case, folder: Path) -> Outcome:
    code, text, error = _main(["predict", "--model", str(case.path), *case.options])
    return Outcome(code, error, output=text)


COMMANDS: dict[str, Callable[[Case, Path], Outcome]] = {
    "preprocess": _preprocess,
    "check": _check,
    "channel": _channel,
    "extract": _extract,
    "salvage": _salvage,
    "pack": _pack,
    "predict": _predict,
}
