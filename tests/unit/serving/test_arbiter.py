"""Whom the arbiter kills, and what it can still take from a dead process."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from image_classification.serving import arbiter
from image_classification.serving.account import Account
from image_classification.serving.arbiter import KILL_SECONDS, Arbiter
from image_classification.serving.connection import Connection
from image_classification.serving.http import Head, Request
from image_classification.serving.observation import RequestRecord
from image_classification.serving.process_state import BEATS, SENDING, UNANSWERED, ProcessState

TIMEOUT = 60.0
Look = Callable[..., bool]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Look:
    """Look at a process after some seconds, perhaps after a beat; whether it is killed then."""
    clock, killed = [0.0], []
    monkeypatch.setattr(arbiter, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(arbiter.os, "kill", lambda pid, number: killed.append((pid, number)))
    worker = SimpleNamespace(state=ProcessState(), plan=SimpleNamespace(timeout=TIMEOUT))
    made = Arbiter.__new__(Arbiter)
    made._watched, made._last_look = {7: arbiter._Watched(worker)}, 0.0  # type: ignore[arg-type]

    def after(seconds: float, beats: int = 0) -> bool:
        clock[0] += seconds
        worker.state.numbers[BEATS] += beats
        made.murder_workers()
        assert killed in ([], [(7, signal.SIGKILL)])
        return bool(killed)

    return after


def test_a_process_that_gives_no_sign_of_life_is_killed_once(look: Look) -> None:
    assert not look(1, beats=1)
    assert not any(look(1) for _ in range(int(TIMEOUT) + KILL_SECONDS))
    assert look(1) and look(1)


def test_a_process_that_loads_its_model_has_the_time_of_the_start(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_STARTUP_TIMEOUT", "100")
    assert not any(look(1) for _ in range(100))
    assert look(1)


def test_a_process_that_was_frozen_together_with_the_arbiter_is_not_killed(look: Look) -> None:
    assert not look(1, beats=1)
    assert not look(10 * TIMEOUT)
    assert not look(1, beats=1)


def test_a_deposit_outlives_its_process_and_is_gone_once_the_process_has_taken_it_back() -> None:
    state, (server, client) = ProcessState(places=2), socket.socketpair()
    begun, end = os.pipe()
    process = os.fork()
    if not process:
        with state.depositing(server, "first"):
            pass
        with state.depositing(server, "second"):
            os.write(end, b"x")
            signal.pause()
    os.read(begun, 1)
    state.leave()
    server.close()
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    ((name, taken),) = state.take()
    assert name == "second" and state.take() == []
    with taken, client:
        taken.sendall(b"answer")
        assert client.recv(100) == b"answer"
    os.close(begun)
    os.close(end)


def test_without_a_free_place_a_socket_is_not_deposited() -> None:
    state, (server, client) = ProcessState(places=1), socket.socketpair()
    with server, client, state.depositing(server, "a") as first:
        assert first is not None
        with state.depositing(server, "b") as second:
            assert second is None
        ((name, taken),) = state.take()
        assert name == "a"
        taken.close()


def test_a_request_has_one_answer_and_counts_until_its_client_has_taken_it() -> None:
    state, (server, client) = ProcessState(places=1), socket.socketpair()
    account = Account(state, deposits=True)
    connection = Connection(server, ("peer", 1), 1000)
    request = Request(Head("POST", "/invocations", "", 1, 0, []), b"")
    with server, client:
        work = account.accept(connection, request, RequestRecord("POST", "/invocations"))
        assert account.unanswered() == [work] and account.lost == 1
        claims: list[bool] = []
        with account.working(work):
            assert work.is_started
            threads = [threading.Thread(target=lambda: claims.append(work.claim())) for _ in "12"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert state.take() == []  # nor can the arbiter answer now
        assert sorted(claims) == [False, True] and account.unanswered() == []
        account.send()
        assert account.lost == 0 and state.numbers[SENDING] == 1
        connection.answer(b"x" * (16 << 20), closes=False)
        assert not account.sent(work) and state.numbers[SENDING] == 0
        account.await_rest(work)
        account.review()
        account.done(work)
        assert len(account) == 0 and account.lost == 1
    account.review()  # the client is gone
    assert account.lost == state.numbers[UNANSWERED] == 0
