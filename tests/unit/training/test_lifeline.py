"""The hosts of a job notice the loss of another host, over real sockets of this machine."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Iterator

import pytest

from image_classification.errors import AlgorithmError, ChannelError, UserError
from image_classification.training.lifeline import HostLostError, Lifeline

LEADER, SECOND, THIRD = HOSTS = ("127.0.0.1", "algo-2", "algo-3")
SOON = 10.0
"""Seconds by which what must happen has happened, also on a busy machine."""


class Job:
    """The lifelines of a job's hosts; each loss arrives in `losses`, later in `stuck`."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.losses: queue.Queue[tuple[int, HostLostError]] = queue.Queue()
        self.stuck: queue.Queue[tuple[int, HostLostError]] = queue.Queue()
        self.started: list[Lifeline] = []

    def start(self, rank: int, leader: str = LEADER, **times: float) -> Lifeline:
        def lose(lost: HostLostError) -> None:
            self.losses.put((rank, lost))

        def end(lost: HostLostError) -> None:
            self.stuck.put((rank, lost))

        self.started.append(Lifeline(rank, HOSTS, (leader, self.port), lose, end, **times))
        return self.started[-1]


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    for lifeline in job.started:
        lifeline.close()


def pretend(port: int, *lines: str) -> socket.socket:
    """Connect like a process that sends only these lines."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall("".join(f"{line}\n" for line in lines).encode())
    return connection


def lost(lifeline: Lifeline) -> HostLostError:
    found = lifeline.lost(SOON)
    assert found is not None
    return found


def test_hosts_that_succeed_lose_no_host_whichever_starts_first(job: Job) -> None:
    members = [job.start(1), job.start(2)]
    time.sleep(0.7)  # their first attempts find nobody
    leader = job.start(0)
    time.sleep(1.5)
    members[0].close()
    assert members[1].lost(1.0) is None
    members[1].close()
    leader.close()
    assert all(lifeline.lost(0.0) is None for lifeline in job.started)


def test_all_hosts_learn_why_one_ended_and_whether_the_user_can_fix_it(job: Job) -> None:
    leader, second, third = (job.start(rank) for rank in range(3))
    time.sleep(1.5)
    second.close(ChannelError("channel train is empty"))
    for lifeline in (leader, third):
        failure = lost(lifeline).as_failure()
        assert isinstance(failure, UserError)
        assert str(failure) == "host algo-2 ended: ClientError: channel train is empty"


def test_an_internal_error_is_one_on_the_other_hosts_too(job: Job) -> None:
    leader, second = job.start(0), job.start(1)
    time.sleep(1.5)
    leader.close(ValueError("a\nb"))
    failure = lost(second).as_failure()
    assert isinstance(failure, AlgorithmError)
    assert str(failure) == "host 127.0.0.1 ended: AlgorithmError: ValueError: a b"


def test_a_killed_host_is_lost_at_once_and_the_others_learn_its_name(job: Job) -> None:
    leader, third = job.start(0), job.start(2)
    second = pretend(job.port, "host 1", "beat")
    assert leader.lost(1.5) is None
    second.close()
    for lifeline in (leader, third):
        assert "host algo-2 disconnected unexpectedly" in str(lost(lifeline))


def test_a_silent_host_is_lost(job: Job) -> None:
    leader = job.start(0, silence=1.0)
    with pretend(job.port, "host 1"):
        assert "host algo-2 has not answered for 1 s" in str(lost(leader))


def test_a_host_that_never_connects_is_lost(job: Job) -> None:
    leader = job.start(0, arrival=1.0)
    with pretend(job.port, "host 1"):
        assert "host algo-3 did not connect within 1 s" in str(lost(leader))


def test_a_first_host_that_does_not_start_is_lost(job: Job) -> None:
    member = job.start(1, arrival=1.0)
    assert "host 127.0.0.1 could not be reached on port" in str(lost(member))


def test_hosts_wait_as_long_for_a_first_host_whose_name_does_not_resolve(job: Job) -> None:
    member = job.start(1, "no-such-host.invalid", arrival=1.0)
    assert member.lost(0.5) is None
    assert "could not be reached on port" in str(lost(member))


def test_strangers_cannot_end_a_job(job: Job) -> None:
    leader = job.start(0)
    strangers = [
        pretend(job.port, "GET / HTTP/1.1", "Host: algo-1"),
        pretend(job.port, "host 7", "lost 1 nothing"),
        pretend(job.port, "lost 1 nothing"),
        pretend(job.port, "x" * 100_000),
    ]
    for stranger in strangers:
        stranger.close()
    assert leader.lost(1.5) is None


def test_only_a_process_that_does_not_end_by_itself_is_ended(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("image_classification.training.lifeline.GRACE_SECONDS", 0.5)
    leader = job.start(0)
    pretend(job.port, "host 1").close()
    assert job.losses.get(timeout=SOON) == job.stuck.get(timeout=SOON)
    leader.close()
    again = job.start(0)
    pretend(job.port, "host 1").close()
    again.lost(SOON)
    again.close()
    assert job.losses.qsize() == 1
    assert job.stuck.empty()


def test_the_error_names_a_port_that_is_in_use(job: Job) -> None:
    with socket.create_server(("", job.port)), pytest.raises(UserError, match="set MASTER_PORT"):
        job.start(0)
