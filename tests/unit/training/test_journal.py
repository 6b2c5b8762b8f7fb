"""Every metric can be scraped from its declared log line, whatever its value."""

from __future__ import annotations

import logging
import re
import threading
import time

import pytest

from image_classification.contract.interface import INTERFACES
from image_classification.contract.metrics import KerasLines, Metric, MXNetLines
from image_classification.training.checkpoint import EpochRecord
from image_classification.training.journal import Heartbeat, Journal
from image_classification.training.progress import EpochProgress, RunningMetrics

EVERY_METRIC = [
    pytest.param(metric, id=f"{name}-{metric.name}")
    for name, interface in INTERFACES.items()
    for metric in interface.metrics
]
EXTREMES = (0.0, 1e-9, 3e-5, 0.5, 1.0, 123456.789, 1e17)


@pytest.mark.parametrize("metric", EVERY_METRIC)
def test_the_expression_finds_the_value_in_its_line(metric: Metric) -> None:
    found = re.findall(metric.regex, metric.line.format(value="0.123456"))
    assert found == ["0.123456"]


def test_no_expression_matches_the_line_of_another_metric() -> None:
    for interface in INTERFACES.values():
        for metric in interface.metrics:
            line = "12/12 " + metric.line.format(value="0.5")
            scraped = {m.name for m in interface.metrics if re.search(m.regex, line)}
            assert scraped == {m.name for m in interface.metrics if m.line == metric.line}


@pytest.mark.parametrize("interface", sorted(INTERFACES))
def test_the_objective_of_the_tuning_guides_is_declared(interface: str) -> None:
    declared = {metric.name: metric for metric in INTERFACES[interface].metrics}
    assert declared["validation:accuracy"].direction == "Maximize"
    lines = INTERFACES[interface].lines.of_epoch(0, 12, 1.0, {"accuracy": 0.5}, {"accuracy": 0.75})
    found = re.findall(declared["validation:accuracy"].regex, "\n".join(lines))
    assert [float(value) for value in found] == [0.75]


@pytest.mark.parametrize("value", EXTREMES)
def test_no_number_has_an_exponent(value: float) -> None:
    names = ("loss", "accuracy", "top_k_accuracy_5", "precision")
    values = dict.fromkeys(names, value)
    lines: list[str] = []
    for built_in in (MXNetLines(), KerasLines()):
        lines += built_in.of_batch(0, 20, value, values)
        lines += built_in.of_epoch(0, 12, value, values, values)
        lines += built_in.of_best(value)
        lines += built_in.of_durations([value])
        lines += built_in.of_test(values, 7, value)
    assert len(lines) == 19
    for line in lines:
        assert not re.search(r"\d[eE][-+]?\d", line), line
        assert "nan" not in line and "inf" not in line


def record(epoch: int = 0) -> EpochRecord:
    values = {"loss": 0.5, "accuracy": 0.75}
    return EpochRecord(epoch, values, values, 2.0, 50.0, 0.031, 1e-7, 0.048)


def test_the_epoch_line_has_speed_waiting_and_time_outside_the_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    Journal(MXNetLines(), 3, 4).epoch_lines(record(), 10)
    line = caplog.messages[-1]
    assert "50.0 images/s, 3.1% of the time waiting for data" in line
    assert "4.8% outside the training step" in line and "about 10 s left" in line


def test_a_silent_job_logs_what_is_running(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    journal = Journal(KerasLines(), 3, 4)
    with Heartbeat(max_silence=0.05).running("opening the channels") as heartbeat:
        await_line(caplog, "Still opening the channels, for 0 s")
        heartbeat.now(journal.still)
        await_line(caplog, "Epoch 1/3, 0 s: step 1 of 4 is running")
        progress = EpochProgress(0, RunningMetrics(None), step=2)
        journal.begin_epoch(progress)
        await_line(caplog, "Epoch 1/3, 0 s: step 3 of 4 is running")
        journal.begin_validation()  # as after a stop within the epoch
        await_line(caplog, "Epoch 1/3, 0 s: validating")
        journal.epoch_lines(record(0), 0)
        await_line(caplog, "Epoch 2/3, 0 s: step 1 of 4 is running")
        heartbeat.now("writing the artifact")
        await_line(caplog, "Still writing the artifact, for 0 s")


def test_the_heartbeat_is_silent_while_other_lines_are_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with Heartbeat(max_silence=3600).running("opening the channels") as heartbeat:
        heartbeat._last_line -= 3600
        logging.getLogger("image_classification.anything").info("a line")
        assert time.monotonic() - heartbeat._last_line < 3000
    logger = logging.getLogger("image_classification")
    assert heartbeat not in logger.handlers


def await_line(caplog: pytest.LogCaptureFixture, expected: str) -> None:
    pattern = re.escape(expected).replace("0\\ s", r"\d+\ s")
    waiting = threading.Event()
    while not any(re.match(pattern, line) for line in caplog.messages):
        waiting.wait(0.01)  # pytest's own time limit ends a test that waits in vain


def test_a_step_line_has_speed_waiting_and_time_left_when_a_line_is_due(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    journal = Journal(MXNetLines(), 2, 100)
    journal.last_line -= 25
    journal._epoch_start -= 25
    journal.step_line(0, 10, 12.5, 0.2, {"loss": 1.0, "accuracy": 0.5})
    (line,) = caplog.messages
    assert line.startswith("Epoch 1/2, step 10/100, 12.5 images/s, 20.0% of the time waiting")
    left = re.search(r"about (\d+) s left", line)
    assert left and 470 <= int(left[1]) <= 480  # 225 s of this epoch, 250 s of the next
    assert time.monotonic() - journal.last_line < 20
