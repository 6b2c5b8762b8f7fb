"""Bad samples: an event with a key and a reason, not a crash, up to a budget.

In: reports from the loader's threads. Out: names and reasons for the log and the report, or a
DataError when there are more than the job allows.
"""

from __future__ import annotations

import logging
import math
import re
import threading

from image_classification.errors import DataError, HyperparameterError

_LISTED = 10  # names in an error: enough to see a pattern
_COUNT = re.compile(r"\d+", re.ASCII)
_SHARE = re.compile(r"(\d+\.?\d*|\.\d+)\s*%", re.ASCII)
_log = logging.getLogger(__name__)


class BadSamples:
    """Counts bad samples, each key once however many epochs meet it. Safe to share by threads.

    Attributes:
        limit: how many are allowed; 0 fails at the first.
        reasons: key → reason, in the order of the reports.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    @classmethod
    def allowing(cls, text: str, count: int) -> BadSamples:
        """From a hyperparameter: "0" fails at the first, "5" skips five, "1%" that share.

        Args:
            text: a whole number or a percentage.
            count: samples in the data set; a share is rounded down.
        """
        count_match, share_match = _COUNT.fullmatch(text.strip()), _SHARE.fullmatch(text.strip())
        if count_match:
            return cls(int(count_match[0]))
        share = float(share_match[1]) if share_match else math.inf
        if share > 100:
            raise HyperparameterError(
                f'max_bad_samples must be a count such as "5" or a share such as "1%", got {text!r}'
            )
        return cls(int(share / 100 * count))

    def __len__(self) -> int:
        return len(self.reasons)

    def report(self, key: str, reason: str) -> None:
        """Count one bad sample; a DataError lists the names once there are more than the limit."""
        with self._lock:
            if key in self.reasons:
                return
            self.reasons[key] = reason
            reasons = list(self.reasons.items())
        if len(reasons) > self.limit:
            raise DataError(self._complaint(reasons))
        _log.warning("skipped %s: %s", key, reason)

    def _complaint(self, reasons: list[tuple[str, str]]) -> str:
        listed = "; ".join(f"{key}: {reason}" for key, reason in reasons[:_LISTED])
        more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
        return (
            f"expected at most {self.limit} bad samples, got {len(reasons)}: {listed}{more}. "
            "Repair or remove them, or allow more with max_bad_samples (a count, or 1%)"
        )
