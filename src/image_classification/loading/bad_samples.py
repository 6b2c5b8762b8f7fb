"""Bad samples: an event with a key and a reason, not a crash, up to a limit.

In: reports from the loader's threads. Out: keys and reasons for the log and the report, or a
DataError when there are more than the job allows.
"""

import logging
import re
import threading

from image_classification.errors import DataError

_LISTED = 10  # keys in an error: enough to see a pattern
_COUNT = re.compile(r"\d+", re.ASCII)
_SHARE = re.compile(r"(\d+\.?\d*|\.\d+)\s*%", re.ASCII)
_log = logging.getLogger(__name__)


class BadSamples:
    """Counts bad samples, each key once however many epochs meet it. Thread-safe.

    Args:
        limit: how many are allowed; 0 fails at the first.
        remedy: what the error advises when there are more.

    Attributes:
        reasons: key → reason, in the order of the reports.
    """

    def __init__(self, limit: int = 0, remedy: str = "repair or remove them") -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}
        self._remedy = remedy
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.reasons)

    def report(self, key: str, reason: str) -> None:
        """Count one bad sample; raise a DataError that lists them when there are too many."""
        with self._lock:
            if key in self.reasons:
                return
            self.reasons[key] = reason
            reasons = list(self.reasons.items())
        if len(reasons) > self.limit:
            listed = "; ".join(f"{key}: {reason}" for key, reason in reasons[:_LISTED])
            more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
            raise DataError(
                f"expected at most {self.limit} bad samples, got {len(reasons)}: {listed}{more}; "
                f"{self._remedy}"
            )
        _log.warning("skipped %s: %s", key, reason)


def parse_limit(text: str, count: int) -> int:
    """The limit that `text` sets for `count` samples: "5" is five, "1%" that share rounded down.

    Raises:
        DataError: neither a whole number nor a percentage up to 100.
    """
    text = text.strip()
    if _COUNT.fullmatch(text):
        return int(text)
    share = _SHARE.fullmatch(text)
    if share is None or float(share[1]) > 100:
        raise DataError(f'expected a count such as "5" or a share such as "1%", got {text!r}')
    return int(float(share[1]) / 100 * count)
