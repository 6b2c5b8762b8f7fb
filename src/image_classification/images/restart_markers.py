"""Restart markers for JPEG files, so that a reader can decode any region of them.

In: the bytes of a JPEG file. Out: the same picture, coefficient for coefficient, as a sequential
JPEG with a restart marker about every 32 pixels, a table of where they are, and optimized Huffman
tables. These save what the markers cost, so the size stays within a few percent. It is an ordinary
JPEG for everybody else; `jpeg_regions` reads regions of it. Metadata and orientation are kept.

jpegtran, the lossless tool of libjpeg, does the work in its own process: 4 to 7 ms per image.
Sources: jpegtran(1); restart markers: ITU-T T.81, B.2.4.4 and F.1.1.5.
"""

import logging
import shutil
import subprocess
import threading

import numpy as np

from image_classification.errors import UsageError
from image_classification.images.decode import check_pixels
from image_classification.images.header import SCAN, read_header
from image_classification.images.jpeg_regions import read_layout, segment_bounds, with_table
from image_classification.images.price import admit

PROGRAM = "jpegtran"
_WANTED, _LEAST = 32, 24  # pixels between markers: finer costs size, coarser decodes too much
_MAX_INTERVAL = 0xFFFF
_SECONDS = 60.0  # far above what a picture of 67 megapixels takes
_log = logging.getLogger(__name__)


class Segmenter:
    """Rewrites JPEG files. Thread-safe.

    Attributes:
        segmented: how many files were rewritten.
        kept: how many stayed as they were: not a JPEG, CMYK, or damaged.

    Raises:
        UsageError: jpegtran is not installed.
    """

    def __init__(self) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise UsageError(
                f"expected the program {PROGRAM} on the PATH, found none; install it (Debian and "
                "Ubuntu: apt-get install libjpeg-turbo-progs; macOS: brew install jpeg-turbo) or "
                "leave out --segment"
            )
        self._program = program
        self.segmented = self.kept = 0
        self._lock = threading.Lock()

    def segment(self, content: bytes, max_pixels: int) -> bytes:
        """Return the file with restart markers, or `content` itself if it cannot have them.

        Args:
            content: an image file.
            max_pixels: of the picture; it is held in memory as coefficients, 6 bytes per pixel.

        Raises:
            ImageError: not an image file, or too large.
        """
        header = read_header(content)
        check_pixels(header.width, header.height, max_pixels)
        admit(content, header)
        result = None
        if header.format == "JPEG" and header.channels in (1, 3):
            result = self._rewrite(content)
        if result is not None and read_header(result).upright_size != header.upright_size:
            result = None
        with self._lock:
            self.segmented += result is not None
            self.kept += result is None
        return content if result is None else result

    def warn(self) -> None:
        """Log how many files could not be rewritten, if any."""
        if self.kept:
            _log.warning(
                "%d of %d images stay as they were, without restart markers: they are not JPEG, "
                "are CMYK, or are damaged",
                self.kept,
                self.kept + self.segmented,
            )

    def _rewrite(self, content: bytes) -> bytes | None:
        layout = read_layout(content)
        sequential: bytes | None = content
        if layout is None:  # progressive, or a scan for each component
            sequential = self._run(content)
            layout = None if sequential is None else read_layout(sequential)
        if sequential is None or layout is None:
            return None
        interval = restart_interval(read_header(content).width, layout.mcu_width)
        rewritten = self._run(sequential, "-restart", f"{interval}B")
        found = None if rewritten is None else read_layout(rewritten)
        if rewritten is None or found is None or found.interval != interval:
            return None
        header = read_header(rewritten)
        across = -(-header.width // found.mcu_width) // interval
        bounds = segment_bounds(rewritten, found, across * -(-header.height // found.mcu_height))
        if bounds is None:
            return None
        return with_table(
            rewritten, rewritten.rindex(bytes((0xFF, SCAN)), 0, found.scan), np.diff(bounds)
        )

    def _run(self, content: bytes, *options: str) -> bytes | None:
        """Run jpegtran on the file; None if it reports any fault."""
        command = [self._program, "-copy", "all", "-optimize", *options]
        try:
            done = subprocess.run(command, input=content, capture_output=True, timeout=_SECONDS)  # noqa: S603
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None


def restart_interval(width: int, mcu_width: int) -> int:
    """Return the coded units between two markers: a divisor of a row's units, to make a grid.

    It is the divisor nearest to 32 pixels, from 24 on; a whole row if that is the only one (a prime
    number of units), which still saves the rows above and below a crop.

    Args:
        width: of the picture in pixels.
        mcu_width: pixels of a unit, 8 or 16.
    """
    units = -(-width // mcu_width)
    divisors = [n for n in range(1, min(units, _MAX_INTERVAL) + 1) if units % n == 0]
    wide = [n for n in divisors if n * mcu_width >= _LEAST] or [units]
    return min(wide, key=lambda n: abs(n * mcu_width - _WANTED))
