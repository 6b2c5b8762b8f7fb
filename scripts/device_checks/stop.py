"""SIGTERM ends a job with an artifact and a checkpoint, and the next start continues there."""

from __future__ import annotations

import signal
import time

from device_checks import jobs
from device_checks.one import Given

_SECONDS_TO_STOP = 120  # that SageMaker gives
_ENDLESS = "10000"


def run(given: Given) -> None:
    rows, images = given.rows, given.size(640, 24)
    job = jobs.TINY | {"mini_batch_size": given.size("32", "8")}
    base = jobs.write(given, job | {"epochs": _ENDLESS}, images)
    log = given.work / "stopped.log"
    process = jobs.start(["train", "--base-dir", base], log)
    has_begun = jobs.wait_for("Epoch[0] Validation-accuracy", log, process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(_SECONDS_TO_STOP)
    seconds = time.monotonic() - began
    jobs.show(log)
    rows.expect("stopped: it had begun", str(has_begun), "True")
    rows.expect("stopped: exit status", process.returncode, 0)
    rows.goal("stopped: seconds until it ended", seconds, "≤", _SECONDS_TO_STOP)
    has_model = (base / "model" / "manifest.json").is_file()
    rows.expect("stopped: artifact", "there" if has_model else "none", "there")
    before = jobs.epochs_of(base)
    saved = sorted(path.stem for path in (base / "checkpoints").glob("*.json"))
    rows.note("stopped: epochs, checkpoints", f"{len(before)}, {', '.join(saved)}")

    jobs.set_hyperparameters(base, job | {"epochs": str(len(before) + 1)})
    log = given.work / "resumed.log"
    process = jobs.start(["train", "--base-dir", base], log)
    process.wait()
    jobs.show(log)
    rows.expect("resumed: exit status", process.returncode, 0)
    lines = [line for line in log.read_text("utf-8").splitlines() if "Resumed " in line]
    rows.note("resumed: where", lines[0].partition("Resumed ")[2] if lines else "nowhere")
    rows.expect("resumed: from the checkpoint", str(bool(lines)), "True")
    after = jobs.epochs_of(base)
    rows.goal("resumed: epochs added", len(after) - len(before), "≥", 1)
    rows.expect("resumed: the finished epochs", _kept(before, after), "as before")
    rows.expect("resumed: losses are finite", str(jobs.have_finite_losses(after)), "True")


def _kept(before: list[dict[str, object]], after: list[dict[str, object]]) -> str:
    whole = [epoch for epoch in before if not epoch["cut_after"]]
    return "as before" if after[: len(whole)] == whole else "changed"
