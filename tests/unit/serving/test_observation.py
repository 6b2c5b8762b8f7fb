"""The access log's line of a request, in each form of the log."""

from __future__ import annotations

import io
import json
import re

import pytest

from image_classification import logs
from image_classification.serving import observation
from image_classification.serving.log_output import LogOutput


def test_the_line_of_a_request_is_json_except_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = observation.RequestRecord("POST", "/invocations\x1b[31m")
    record.answer, record.status = "[red]daisy\x1b[2J 97.3%", 200
    lines = {}
    for form in logs.FORMS:
        stream = io.StringIO()
        monkeypatch.setattr(observation, "_access_log", None)
        monkeypatch.setattr(observation, "_line_of", None)
        observation.write_access_log(LogOutput(stream), form)
        assert observation.shows_answers() == (form == logs.TERMINAL)
        record.write_line()
        (lines[form],) = stream.getvalue().splitlines()
    plain, found = json.loads(lines[logs.PLAIN]), json.loads(lines[logs.JSON])
    assert isinstance(plain["time"], float) and "message" not in plain
    assert found["time"].endswith("Z") and found["level"] == "INFO" and found["event"] == "request"
    assert {*plain} < {*found}
    text = r"POST /invocations\\x1b\[31m 200 \d+ ms \[red\]daisy\\x1b\[2J 97\.3%"
    assert re.fullmatch(text, lines[logs.TERMINAL]) and re.fullmatch(text, found["message"])
