"""Features in place of images: each sample goes through the frozen backbone once per view.

In: a source and a function that computes features. Out: the batches of a `Loader`, with features
instead of images. A view is one preprocessing of all samples: that of epoch 0, 1, …; a loader has a
fixed number of them. Epoch e reads view e modulo that number. The first epochs compute features
batch by batch; later ones find them in the store, in an order of their own.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from image_classification import events
from image_classification.loading.loader import Loader
from image_classification.samples import (
    Array,
    Batch,
    Float64Array,
    FloatArray,
    IntArray,
    UInt8Array,
)

LARGEST_IN_MEMORY = 256 << 20
"""Bytes of features; more of them lie in a file of the temporary folder, mapped into memory."""

_LEFT_FREE = 1 << 30  # bytes of the disk: for checkpoints and the artifact, which matter more
_ROWS_PER_SUM = 256  # features that the ranks exchange at once: 3 MB of 1,280 each
_LINE_SECONDS = 20.0
_DRAW_SECONDS = 0.25

_logger = logging.getLogger(__name__)


class FeatureStore:
    """Room for the features of the samples of a source, in several views.

    Args:
        views, samples, width: of the features.

    Attributes:
        rows: float32 (views, samples, width).
        has: bool (views, samples), whether the features are there: bad samples have none.

    Raises:
        OSError: the temporary folder has no room for the file and what a job writes besides.
    """

    def __init__(self, views: int, samples: int, width: int) -> None:
        shape = views, samples, width
        self.has = np.zeros((views, samples), np.bool_)
        self.rows: FloatArray
        size = 4 * views * samples * width
        if size <= LARGEST_IN_MEMORY:
            self.rows = np.zeros(shape, np.float32)
            return
        with tempfile.TemporaryFile(prefix="features-") as file:  # the mapping keeps it
            disk = os.fstatvfs(file.fileno())
            if disk.f_bavail * disk.f_frsize < size + _LEFT_FREE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would end the process later
            self.rows = np.memmap(file, np.float32, "r+", shape=shape)


@dataclass(frozen=True)
class Trunk:
    """A frozen backbone, and what its ranks do together.

    Attributes:
        features: float32 (N, width) of uint8 (N, H, W, C).
        total: float64 (N,) values summed over the ranks; all of them call it.
        any: whether a flag is set on any rank; all of them call it.
    """

    features: Callable[[UInt8Array], FloatArray]
    total: Callable[[Float64Array], Float64Array]
    any: Callable[[bool], bool]


class FeatureLoader(Loader):
    """A `Loader` of features; see there for the other arguments and attributes.

    With several ranks that share a source, each computes its share of a view and then receives
    that of the others. A job that resumes computes a view again when an epoch needs it: from the
    same batches, so the CPU gives the same bits.

    Args:
        store: for this loader alone.
        trunk: computes the features.
        is_alone: whether other ranks do not take part: that of validation.
        is_computed: whether the store has all features already.
    """

    def __init__(
        self,
        *args: Any,
        store: FeatureStore,
        trunk: Trunk,
        is_alone: bool,
        is_computed: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._store, self._trunk, self._is_alone = store, trunk, is_alone
        views = len(store.has)
        self.image_epochs = views
        self._is_computed, self._is_exchanged = [is_computed] * views, [False] * views

    def empty(self, count: int) -> Array:
        return np.zeros((count, self._store.rows.shape[2]), np.float32)

    def kept(
        self, choose: Callable[[IntArray], IntArray] | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Return (samples,) indices and (samples, width) features of the fullest view.

        Args:
            choose: returns those of the indices whose features are wanted, as all of them may not
                fit into memory; None: all.
        """
        view = int(self._store.has.sum(axis=1).argmax())
        indices: IntArray = np.flatnonzero(self._store.has[view])
        if choose is not None:
            indices = choose(indices)
        return indices, np.asarray(self._store.rows[view, indices])

    def epoch(
        self,
        number: int,
        first_step: int = 0,
        *,
        shuffle: bool | None = None,
        must_stop: Callable[[], bool] = bool,
    ) -> Generator[Batch, None, None]:
        """See `Loader.epoch`; if the job must stop before the first step, there is none."""
        view = number % len(self._store.has)
        if view == number and not self._is_computed[view] and not self.balanced:
            batches = super().epoch(number, first_step, shuffle=shuffle)
            return self._computed(view, batches, is_whole=first_step == 0)
        return self._stored(view, number, first_step, shuffle, must_stop)

    def _computed(
        self, view: int, batches: Generator[Batch, None, None], *, is_whole: bool
    ) -> Generator[Batch, None, None]:
        store = self._store
        for batch in batches:
            features = self.empty(0)
            began = time.perf_counter()
            if len(batch):
                features = self._trunk.features(batch.images)
                store.rows[view, batch.indices] = features
                store.has[view, batch.indices] = True
            self.feature_seconds = time.perf_counter() - began
            yield replace(batch, images=features)
        self._is_computed[view] = is_whole

    def _stored(
        self,
        view: int,
        number: int,
        first_step: int,
        shuffle: bool | None,
        must_stop: Callable[[], bool],
    ) -> Generator[Batch, None, None]:
        if not self._complete(view, must_stop):
            return
        self.samples, self.wait_seconds, self.feature_seconds = 0, 0.0, 0.0
        order = self.order(number, self.rank, self.world_size, shuffle=shuffle)
        for step in range(first_step, self.steps):
            indices = order[step * self.batch_size : (step + 1) * self.batch_size]
            batch = self._batch(view, indices[self._store.has[view, indices]])
            self.samples += len(batch)
            yield batch

    def _batch(self, view: int, indices: IntArray) -> Batch:
        rows = self.source.multi_hot
        return Batch(
            images=np.asarray(self._store.rows[view, indices]),
            targets=self.source.class_indices[indices] if rows is None else rows[indices],
            weights=np.ones(len(indices), np.float32),
            keys=tuple(self.source.key(index) for index in indices.tolist()),
            indices=indices,
        )

    def _complete(self, view: int, must_stop: Callable[[], bool]) -> bool:
        """Compute what a view lacks; return False, on every rank, if the job must stop first."""
        is_stopped = not self._is_computed[view] and not self._compute(view, must_stop)
        if self._is_alone:
            return not is_stopped
        if self._trunk.any(is_stopped):
            return False
        if self.world_size > 1 and not self._is_exchanged[view]:
            self._exchange(view)
        return True

    def _compute(self, view: int, must_stop: Callable[[], bool]) -> bool:
        """Compute this rank's share of a view; return False if the job must stop first."""
        batches = super().epoch(view, shuffle=True if self.balanced else None)
        began = last_line = last_drawn = time.monotonic()
        for _ in self._computed(view, batches, is_whole=True):
            if must_stop():
                batches.close()
                return False
            now = time.monotonic()
            done, count = self.samples, len(self.source) // self.world_size
            left = (now - began) * (count - done) / max(done, 1)
            event = events.Featured(view + 1, len(self._store.has), done, count, left)
            if self.rank == 0 and now - last_drawn > _DRAW_SECONDS:
                last_drawn = now
                events.draw(_logger, event)
            if now - last_line > _LINE_SECONDS:
                last_line = now
                _logger.info(
                    "Computing the features of copy %d of %d: %d of %d images, about %.0f s left",
                    *(event.copy, event.copies, done, count, left),
                    extra=event.extra,
                )
        return True

    def _exchange(self, view: int) -> None:
        """Give the other ranks this rank's share of a view, and take theirs."""
        store = self._store
        own = store.has[view].copy()
        store.has[view] = self._trunk.total(own.astype(np.float64)) > 0
        for start in range(0, len(own), _ROWS_PER_SUM):
            part = slice(start, start + _ROWS_PER_SUM)
            rows = np.where(own[part, None], store.rows[view, part], 0).astype(np.float64)
            store.rows[view, part] = self._trunk.total(rows.reshape(-1)).reshape(rows.shape)
        self._bad_indices.update(np.flatnonzero(~store.has[view]).tolist())
        self._is_exchanged[view] = True
