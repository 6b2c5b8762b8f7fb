"""Large pictures wait for each other in the order they came; small ones never wait."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from image_classification.images.header import ImageHeader
from image_classification.serving.admission import PixelGate
from image_classification.serving.observation import RequestRecord, decoding, working_on

LARGE = ImageHeader("PNG", 4_000, 4_000)


class Visitor:
    """A thread that decodes one picture, for a request of its own, until it is told to end."""

    def __init__(self, gate: PixelGate, header: ImageHeader) -> None:
        self._gate, self._header = gate, header
        self.record = RequestRecord("POST", "/invocations")
        self.entered, self.leave = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._visit, daemon=True)
        self.thread.start()

    def _visit(self) -> None:
        with working_on(self.record), decoding(), self._gate.decoding(self._header):
            self.entered.set()
            self.leave.wait(30)

    def end(self) -> None:
        self.leave.set()
        self.thread.join(30)


def test_a_picture_for_which_there_are_no_pixels_waits_until_another_is_done() -> None:
    gate = PixelGate(40_000_000)
    visitors = [Visitor(gate, LARGE) for _ in range(2)]
    assert all(visitor.entered.wait(30) for visitor in visitors)
    third = Visitor(gate, LARGE)
    assert not third.entered.wait(0.2)
    visitors[0].end()
    assert third.entered.wait(30)
    visitors[1].end()
    third.end()


def test_a_picture_larger_than_the_limit_is_decoded_alone() -> None:
    gate = PixelGate(10_000_000)
    first, second = Visitor(gate, LARGE), Visitor(gate, LARGE)
    assert first.entered.wait(30) or second.entered.wait(30)
    assert not (first.entered.is_set() and second.entered.is_set())
    for visitor in (first, second):
        visitor.leave.set()
    assert first.entered.wait(30) and second.entered.wait(30)


@pytest.mark.parametrize(
    "header", [ImageHeader("PNG", 2_000, 2_000), ImageHeader("JPEG", 5_000, 5_000)]
)
def test_small_pictures_and_common_photographs_pass_while_large_ones_wait(
    header: ImageHeader,
) -> None:
    gate = PixelGate(10_000_000)
    with ExitStack() as stack:
        stack.enter_context(gate.decoding(LARGE))
        waiting = Visitor(gate, LARGE)
        with gate.decoding(header):
            assert not waiting.entered.is_set()
    waiting.end()


def test_a_picture_that_cannot_be_decoded_gives_its_pixels_back() -> None:
    gate = PixelGate(16_000_000)
    with pytest.raises(ValueError, match="damaged"), gate.decoding(LARGE):
        raise ValueError("damaged")
    with gate.decoding(LARGE):
        pass


def test_what_a_picture_waits_counts_as_queueing_and_not_as_decoding() -> None:
    gate = PixelGate(10_000_000)
    with gate.decoding(LARGE):
        waiting = Visitor(gate, LARGE)
        assert not waiting.entered.wait(0.5)
        waiting.leave.set()
    waiting.thread.join(30)
    assert waiting.record.queue_ms > waiting.record.decode_ms >= 0
