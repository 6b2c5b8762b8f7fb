"""Large images wait for each other in the order they came; small ones never wait."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from image_classification.images.header import ImageHeader
from image_classification.serving.models import LargeImages
from image_classification.serving.observation import RequestRecord, working_on

LARGE = ImageHeader("PNG", 4_000, 4_000)


class Visitor:
    """A thread that decodes one image, for a request of its own, until it is told to end."""

    def __init__(self, images: LargeImages, header: ImageHeader) -> None:
        self._images, self._header = images, header
        self.record = RequestRecord("POST", "/invocations")
        self.entered, self.leave = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._visit, daemon=True)
        self.thread.start()

    def _visit(self) -> None:
        with working_on(self.record), self.record.decoding(), self._images.decoding(self._header):
            self.entered.set()
            self.leave.wait(30)

    def end(self) -> None:
        self.leave.set()
        self.thread.join(30)


def test_an_image_waits_until_another_has_freed_enough_pixels() -> None:
    images = LargeImages(40_000_000)
    visitors = [Visitor(images, LARGE) for _ in range(2)]
    assert all(visitor.entered.wait(30) for visitor in visitors)
    third = Visitor(images, LARGE)
    assert not third.entered.wait(0.2)
    visitors[0].end()
    assert third.entered.wait(30)
    visitors[1].end()
    third.end()


def test_an_image_larger_than_the_limit_is_decoded_alone() -> None:
    images = LargeImages(10_000_000)
    first, second = Visitor(images, LARGE), Visitor(images, LARGE)
    assert first.entered.wait(30) or second.entered.wait(30)
    assert not (first.entered.is_set() and second.entered.is_set())
    for visitor in (first, second):
        visitor.leave.set()
    assert first.entered.wait(30) and second.entered.wait(30)


@pytest.mark.parametrize(
    "header", [ImageHeader("PNG", 2_000, 2_000), ImageHeader("JPEG", 5_000, 5_000)]
)
def test_small_images_and_common_photographs_pass_while_large_ones_wait(
    header: ImageHeader,
) -> None:
    images = LargeImages(10_000_000)
    with ExitStack() as stack:
        stack.enter_context(images.decoding(LARGE))
        waiting = Visitor(images, LARGE)
        with images.decoding(header):
            assert not waiting.entered.is_set()
    waiting.end()


def test_an_image_that_cannot_be_decoded_frees_its_pixels() -> None:
    images = LargeImages(16_000_000)
    with pytest.raises(ValueError, match="damaged"), images.decoding(LARGE):
        raise ValueError("damaged")
    with images.decoding(LARGE):
        pass


def test_the_wait_of_an_image_counts_as_queueing_and_not_as_decoding() -> None:
    images = LargeImages(10_000_000)
    with images.decoding(LARGE):
        waiting = Visitor(images, LARGE)
        assert not waiting.entered.wait(0.5)
        waiting.leave.set()
    waiting.thread.join(30)
    assert waiting.record.queue_ms > waiting.record.decode_ms >= 0
