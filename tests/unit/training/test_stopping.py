"""Signals that arrive at any moment of a job."""

from __future__ import annotations

import logging
import signal

import pytest

from image_classification.training.stopping import stop_on_signals


def test_a_second_ctrl_c_aborts_even_while_the_first_is_being_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = logging.getLogger("image_classification.training.stopping")
    with stop_on_signals() as request:
        request.begin_training()

        def interrupted(*_: object) -> None:
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(logger, "warning", interrupted)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not request.is_set()


def test_the_first_ctrl_c_while_training_only_asks_to_stop() -> None:
    with stop_on_signals() as request:
        request.begin_training()
        signal.raise_signal(signal.SIGINT)
        assert request.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_job_stopped_before_its_first_step_ends_as_a_signal_before_training_does() -> None:
    for number, ending in ((signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)):
        with stop_on_signals() as request:
            request.begin_training()
            signal.raise_signal(number)
            with pytest.raises(ending) as raised:
                request.end_without_model()
            assert getattr(raised.value, "code", 0) == 0
