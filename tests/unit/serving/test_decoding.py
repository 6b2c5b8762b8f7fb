"""The decoder of a server: room for all pictures, unusual ones apart, and what ends a process."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from image_classification import errors
from image_classification.images.header import read_header
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.samples import UInt8Array
from image_classification.serving import decoding
from image_classification.serving.admission import Plan, choose_plan
from image_classification.serving.decoding import Capacity, Decoder
from image_classification.serving.isolation import IS_SUPPORTED, Forkserver
from image_classification.serving.observation import Health, RequestRecord, working_on

PREPROCESSING = Preprocessing(32, 40, resize=36)

needs_linux = pytest.mark.skipif(not IS_SUPPORTED, reason="needs Linux")


class Visitor:
    """A thread that takes capacity, for a request of its own, until it is told to end."""

    def __init__(
        self, capacity: Capacity, memory: int, processes: int = 0, seconds: float = 0.0
    ) -> None:
        self._capacity, self._wanted = capacity, (memory, processes, seconds)
        self.record = RequestRecord("POST", "/invocations")
        self.entered, self.leave = threading.Event(), threading.Event()
        self.refusal: errors.RequestError | None = None
        self.thread = threading.Thread(target=self._visit, daemon=True)
        self.thread.start()

    def _visit(self) -> None:
        try:
            with (
                working_on(self.record),
                self.record.decoding(),
                self._capacity.taken(*self._wanted),
            ):
                self.entered.set()
                self.leave.wait(30)
        except errors.RequestError as error:
            self.refusal = error

    def end(self) -> None:
        self.leave.set()
        self.thread.join(30)


def test_a_picture_waits_until_another_has_freed_enough_memory() -> None:
    capacity = Capacity(40, 0)
    visitors = [Visitor(capacity, 16) for _ in range(2)]
    assert all(visitor.entered.wait(30) for visitor in visitors)
    third = Visitor(capacity, 16)
    assert not third.entered.wait(0.2)
    visitors[0].end()
    assert third.entered.wait(30)
    visitors[1].end()
    third.end()


def test_a_picture_waits_for_a_process_and_others_that_need_none_for_nothing() -> None:
    capacity = Capacity(40, 1)
    first, second = Visitor(capacity, 1, 1), Visitor(capacity, 1, 1)
    assert first.entered.wait(30) or second.entered.wait(30)
    with capacity.taken(0):
        assert not (first.entered.is_set() and second.entered.is_set())
    first.leave.set()
    second.leave.set()
    assert first.entered.wait(30) and second.entered.wait(30)


def test_a_picture_that_cannot_be_decoded_frees_its_room() -> None:
    capacity = Capacity(16, 1)
    with pytest.raises(ValueError, match="damaged"), capacity.taken(16, 1):
        raise ValueError("damaged")
    with capacity.taken(16, 1):
        pass


def test_who_has_gone_or_waited_too_long_leaves_the_line_to_the_others() -> None:
    capacity = Capacity(16, 0)
    with ExitStack() as stack:
        stack.enter_context(capacity.taken(16))
        gone, late, patient = (Visitor(capacity, size) for size in (16, 16, 8))
        gone.record.is_client_gone = lambda: True
        late.record.deadline = 0.0
        gone.thread.join(30)
        late.thread.join(30)
        assert not patient.entered.is_set()
    assert patient.entered.wait(30)
    patient.end()
    assert gone.refusal is not None and gone.refusal.status == 499
    assert late.refusal is not None and late.refusal.status == 503


def test_of_those_that_wait_the_cheap_ones_go_first_and_the_dearest_are_refused() -> None:
    capacity = Capacity(1, 1, most_waiting=2)
    with capacity.taken(1):
        dear = [Visitor(capacity, 1, 1, seconds) for seconds in (2, 9)]
        while len(capacity._waiting) < 2:
            time.sleep(0.01)
        cheap = Visitor(capacity, 1, 1, 0.01)
        dear[1].thread.join(30)
    assert dear[1].refusal is not None and dear[1].refusal.status == 503
    assert cheap.entered.wait(30) and not dear[0].entered.is_set()
    cheap.end()
    assert dear[0].entered.wait(30)
    dear[0].end()


def test_dear_pictures_leave_a_process_to_the_others() -> None:
    capacity = Capacity(9, 2)
    dear = [Visitor(capacity, 1, 1, 1.0) for _ in range(2)]
    while not any(visitor.entered.is_set() for visitor in dear):
        time.sleep(0.01)
    with capacity.taken(1, 1, 0.01):
        pass
    assert not all(visitor.entered.is_set() for visitor in dear)
    for visitor in dear:
        visitor.leave.set()
    for visitor in dear:
        visitor.end()
        assert visitor.entered.is_set()


def test_the_wait_of_a_picture_counts_as_queueing_and_not_as_decoding() -> None:
    capacity = Capacity(1, 0)
    with capacity.taken(1):
        waiting = Visitor(capacity, 1)
        assert not waiting.entered.wait(0.5)
        waiting.leave.set()
    waiting.thread.join(30)
    assert waiting.record.queue_ms > waiting.record.decode_ms >= 0


def obey(argument: bytes, payload: bytes) -> memoryview:
    """What decoding processes of these tests run; the comment of a picture is its command."""
    for command, action in ACTIONS.items():
        if command in payload:
            action()
    return decoding.decode_apart(argument, payload)


kept: list[bytearray] = []


def spin() -> None:
    while True:
        pass


def hog() -> None:
    while True:
        kept.append(bytearray(1 << 20))


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def keep() -> None:
    kept.append(bytearray(12 << 20))


def hide_the_hog() -> None:
    """As Pillow's readers do, which make a damaged image of everything."""

    def read(*_: object) -> UInt8Array:
        try:
            hog()
        except MemoryError as error:
            kept.clear()
            raise errors.ImageDamagedError("this PNG cannot be decoded") from error
        raise AssertionError

    decoding.preprocess = read  # type: ignore[assignment]  # the process has its own copy


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ACTIONS = {
    b"command: kill": be_killed,
    b"command: spin": spin,
    b"command: hog": hog,
    b"command: hide": hide_the_hog,
    b"command: crash": crash,
    b"command: keep": keep,
}


@pytest.fixture(scope="module")
def forkserver() -> Iterator[Forkserver]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest-xdist has threads of its own
        made = Forkserver({decoding.NAME: obey})
    yield made
    made.close()


@pytest.fixture
def plan() -> Plan:
    return choose_plan(2, 2**30)


@pytest.fixture
def decoder(forkserver: Forkserver, plan: Plan) -> Iterator[Decoder]:
    made = Decoder(plan, Health(), forkserver)
    yield made
    for process in made._idle:
        process.end()


def picture(
    file_format: str = "PNG", command: str = "", size: int = 200, **options: object
) -> bytes:
    image = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return content.getvalue() + command.encode()


def decoded(decoder: Decoder, data: bytes) -> UInt8Array:
    out = np.empty((32, 40, 3), np.uint8)
    decoder.preprocess(data, read_header(data), PREPROCESSING, out)
    return out


def processes(decoder: Decoder) -> list[int]:
    return [process.pid for process in decoder._idle]


UNUSUAL = {
    "PNG": picture("PNG"),
    "WEBP": picture("WEBP"),
    "GIF": picture("GIF"),
    "BMP": picture("BMP"),
    "AVIF": picture("AVIF"),
    "progressive JPEG": picture("JPEG", progressive=True),
    "cut JPEG": picture("JPEG")[:-200],
}


@needs_linux
@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_picture_is_decoded_in_a_process_to_the_same_pixels(
    decoder: Decoder, name: str
) -> None:
    try:
        expected = preprocess(UNUSUAL[name], PREPROCESSING)
    except errors.ImageError as error:
        with pytest.raises(type(error)) as found:
            decoded(decoder, UNUSUAL[name])
        assert str(found.value) == str(error)
    else:
        assert (decoded(decoder, UNUSUAL[name]) == expected).all()
    assert len(processes(decoder)) == 1


@needs_linux
def test_a_decoding_process_has_a_lower_priority_than_the_server(decoder: Decoder) -> None:
    for _ in range(3):
        decoded(decoder, UNUSUAL["PNG"])
    (pid,) = processes(decoder)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, own + 5)


def test_a_plain_jpeg_is_decoded_in_the_servers_process(decoder: Decoder) -> None:
    data = picture("JPEG")
    assert (decoded(decoder, data) == preprocess(data, PREPROCESSING)).all()
    assert processes(decoder) == []


@needs_linux
def test_with_decoding_processes_plain_jpegs_too_are_decoded_in_them_and_a_crash_is_one_images(
    forkserver: Forkserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_DECODING_PROCESSES", "3")
    plan = choose_plan(2, 2**30)
    assert plan.decoders == 3 and "3 decoding processes" in str(plan)
    assert "1 process of" in str(replace(plan, processes=1))
    assert str(replace(plan, decoders=1)).endswith("1 decoding process")
    decoder = Decoder(plan, Health(), forkserver)
    data = picture("JPEG")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: decoded(decoder, data), range(24)))
    assert all((answer == preprocess(data, PREPROCESSING)).all() for answer in answers)
    assert 1 <= len(set(processes(decoder))) <= 3
    with pytest.raises(errors.ImageDamagedError, match=r"JPEG of 200 × 200 pixels failed.*11"):
        decoded(decoder, picture("JPEG", command="command: crash"))
    assert (decoded(decoder, data) == preprocess(data, PREPROCESSING)).all()
    for process in decoder._idle:
        process.end()


def test_decoding_processes_that_the_memory_or_the_system_does_not_allow_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "IMAGE_CLASSIFICATION_DECODING_PROCESSES"
    monkeypatch.setenv(name, "9")
    assert choose_plan(2, 2**31).memory <= 2**31
    with pytest.raises(errors.UserError, match=f"{name}=9 is too many for 1024 MiB.* at most 8"):
        choose_plan(2, 2**30)
    with pytest.raises(errors.UserError, match=f"{name}=9 needs processes with limits"):
        Decoder(choose_plan(2, 2**31), Health(), None)


@needs_linux
def test_a_large_resize_is_paid_for_and_done_in_a_process(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_MOST_KEPT", 1 << 30)  # or the process would end afterward
    data = picture("JPEG")
    large = Preprocessing(3_000, 2_000, mode="squash")
    out = np.empty((3_000, 2_000, 3), np.uint8)
    decoder.preprocess(data, read_header(data), large, out)
    assert (out == preprocess(data, large)).all()
    assert len(processes(decoder)) == 1
    for thin in ((1, 2**24), (2**24, 1)):
        with pytest.raises(errors.ImageTooLargeError, match=r"resizing it to \d+ × \d+ takes"):
            decoder.preprocess(data, read_header(data), Preprocessing(*thin, mode="squash"), out)
    tall = picture("JPEG", size=4_000)
    wide = Preprocessing(2, 40_000, mode="squash")  # 4,000 rows of 40,000 pixels in between
    with pytest.raises(errors.ImageTooLargeError, match="resizing it to 40000 × 2 takes"):
        decoder.preprocess(tall, read_header(tall), wide, out)


def test_a_model_whose_inputs_would_fill_the_memory_is_refused(decoder: Decoder) -> None:
    decoder.check_input(Preprocessing(600, 600))
    with pytest.raises(errors.ArtifactError, match=r"expected an input of at most \d+ bytes"):
        decoder.check_input(Preprocessing(4_000, 4_000))


@pytest.mark.parametrize("name", UNUSUAL)
def test_where_no_process_can_be_limited_everything_is_decoded_in_the_server(
    plan: Plan, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    decoder = Decoder(plan, Health(), None)
    assert caplog.text.count("decoded in this process") == 1
    try:
        assert decoded(decoder, UNUSUAL[name]).shape == (32, 40, 3)
    except errors.ImageDamagedError:
        assert name == "cut JPEG"


@needs_linux
@pytest.mark.parametrize(
    ("command", "kind", "message"),
    [
        ("spin", errors.ImageTooLargeError, r"200 × 200 pixels took more than 0\.19 s of CPU time"),
        ("hog", errors.ImageTooLargeError, r"200 × 200 pixels took more than \d+ MB of memory"),
        ("hide", errors.ImageTooLargeError, r"200 × 200 pixels took more than \d+ MB of memory"),
        ("crash", errors.ImageDamagedError, r"PNG of 200 × 200 pixels failed.*signal 11"),
    ],
)
def test_a_picture_that_ends_its_process_is_refused_by_name_and_the_next_one_is_decoded(
    decoder: Decoder, command: str, kind: type[errors.ImageError], message: str
) -> None:
    seconds = 0.2 if command == "spin" else 20  # to take memory costs CPU time, too
    decoder._limits = replace(decoder._limits, seconds=seconds)
    decoded(decoder, UNUSUAL["PNG"])
    before = processes(decoder)
    with pytest.raises(kind, match=message):
        decoded(decoder, picture(command=f"command: {command}"))
    assert processes(decoder) == []
    decoded(decoder, UNUSUAL["PNG"])
    assert len(processes(decoder)) == 1 and processes(decoder) != before


@needs_linux
def test_a_picture_whose_process_the_kernel_killed_is_asked_for_again(decoder: Decoder) -> None:
    with pytest.raises(errors.RequestError, match="no memory was left: send the request") as found:
        decoded(decoder, picture(command="command: kill"))
    assert found.value.status == 503


@needs_linux
def test_a_process_that_was_killed_while_idle_costs_no_picture(decoder: Decoder) -> None:
    decoded(decoder, UNUSUAL["PNG"])
    (killed,) = processes(decoder)
    os.kill(killed, signal.SIGKILL)
    while not decoder._idle[0].was_killed():
        time.sleep(0.01)
    decoded(decoder, UNUSUAL["PNG"])
    assert len(processes(decoder)) == 1 and processes(decoder) != [killed]


@needs_linux
def test_a_process_decodes_many_pictures_until_it_keeps_too_much(decoder: Decoder) -> None:
    decoded(decoder, UNUSUAL["PNG"])
    first = processes(decoder)
    for data in UNUSUAL.values():
        try:
            decoded(decoder, data)
        except errors.ImageDamagedError:
            pass
    assert processes(decoder) == first
    for _ in range(200):  # what the first ones keep may come from memory that was free
        if processes(decoder):
            decoded(decoder, picture(command="command: keep"))
    assert processes(decoder) == []


@needs_linux
def test_no_more_processes_run_than_the_plan_has(decoder: Decoder, plan: Plan) -> None:
    threads = [
        threading.Thread(target=decoded, args=(decoder, picture(size=1000))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(processes(decoder)) <= plan.decoders == 2


@pytest.mark.parametrize("limit", [2**29, 2**30, 2**34])
def test_a_picture_that_does_not_fit_is_refused_by_its_header_and_never_tried(
    limit: int, forkserver: Forkserver
) -> None:
    plan = choose_plan(2, limit)
    decoder = Decoder(plan, Health(), forkserver)
    with decoder._capacity.taken(plan.decoding_memory):  # it would wait, if it were tried
        content = io.BytesIO()
        Image.new("1", (8000, 8000)).save(content, "PNG")
        with pytest.raises(errors.ImageTooLargeError, match=r"up to \d+ MB of memory"):
            decoded(decoder, content.getvalue())
    assert processes(decoder) == []


@needs_linux
def test_without_its_forkserver_the_server_is_replaced(plan: Plan) -> None:
    health = Health()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        forkserver = Forkserver({decoding.NAME: obey})
    decoder = Decoder(plan, health, forkserver)
    forkserver.close()
    health.look()  # before an image needs it
    assert health.fault is not None and "forkserver" in health.fault
    with pytest.raises(errors.RequestError, match="no process can be started") as caught:
        decoded(decoder, UNUSUAL["PNG"])
    assert caught.value.status == 503
    decoded(decoder, picture("JPEG"))


@needs_linux
def test_decoding_in_a_process_stands_under_the_watchdog(
    forkserver: Forkserver, plan: Plan
) -> None:
    health = Health()
    decoder = Decoder(plan, health, forkserver)
    decoder._limits = replace(decoder._limits, seconds=0.5)
    seen: list[int] = []

    def look() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not seen:
            seen.extend(1 for run in health.overdue(0.01) if "decoder" in run.name)

    watcher = threading.Thread(target=look)
    watcher.start()
    with pytest.raises(errors.ImageTooLargeError):
        decoded(decoder, picture(command="command: spin"))
    watcher.join()
    assert seen and not health.overdue(0)
