"""The index of features that a job writes: which images it takes, and what it costs."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from image_classification.images.encode import encode_png
from image_classification.images.preprocessing import Preprocessing
from image_classification.loading.feature_loader import FeatureLoader, FeatureStore, Trunk
from image_classification.samples import FloatArray, IntArray, Sample, UInt8Array
from image_classification.training import known_images
from image_classification.training.known_images import known_images as index_of

WIDTH, COUNT = 64, 60
SIZE = Preprocessing(height=8, width=8)


class Images:
    """Small images of three classes."""

    name, multi_hot, is_countable = "images", None, True

    def __init__(self) -> None:
        self.class_indices: IntArray = np.arange(COUNT) % 3

    def __len__(self) -> int:
        return COUNT

    def read(self, index: int) -> Sample:
        image = np.full((8, 8, 3), index, np.uint8)
        return Sample(str(index), int(self.class_indices[index]), encode_png(image), None)


def features_of(images: UInt8Array) -> FloatArray:
    rows = np.random.default_rng(0).normal(size=(256, WIDTH))
    return np.asarray(rows[images[:, 0, 0, 0]], np.float32)


def loop() -> Any:
    engine = SimpleNamespace(feature_width=WIDTH, features_step=features_of)
    settings = SimpleNamespace(feature_index=True, preprocessing=SIZE)
    return SimpleNamespace(engine=engine, settings=settings, should_stop=lambda: False)


def loaders(**more: Any) -> Any:
    plain = SimpleNamespace(source=Images())
    return SimpleNamespace(**({"training": plain, "validation": plain} | more))


def test_an_image_that_memory_is_too_small_for_is_left_out_and_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = known_images.preprocess

    def preprocess(data: bytes, how: Preprocessing) -> UInt8Array:
        found = compute(data, how)
        if found[0, 0, 0] == 7:
            raise MemoryError
        return found

    monkeypatch.setattr(known_images, "preprocess", preprocess)
    found = index_of(loop(), loaders())
    assert found is not None and len(found.rows) == COUNT - 1


def test_images_are_prepared_on_several_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_CPU_COUNT", "2")
    both, compute = threading.Barrier(2, timeout=20), known_images.preprocess

    def preprocess(data: bytes, how: Preprocessing) -> UInt8Array:
        both.wait()
        return compute(data, how)

    monkeypatch.setattr(known_images, "preprocess", preprocess)
    found = index_of(loop(), loaders())
    assert found is not None and len(found.rows) == COUNT


def test_only_the_features_of_the_index_are_read_from_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_images, "most_images", lambda _: 30)
    store = FeatureStore(1, COUNT, WIDTH)
    store.has[:] = True
    store.rows[0] = features_of(np.arange(COUNT, dtype=np.uint8)[:, None, None, None])
    taken: list[int] = []

    class Rows:
        def __getitem__(self, place: tuple[int, IntArray]) -> FloatArray:
            taken.append(len(place[1]))
            return np.asarray(kept[place])

    kept, store.rows = store.rows, Rows()  # type: ignore[assignment]
    loader = FeatureLoader(
        *(Images(), SIZE, 8),
        store=store,
        trunk=Trunk(features_of, lambda values: values, bool),
        is_alone=True,
    )
    with loader:
        found = index_of(loop(), loaders(training=loader))
    assert found is not None and len(found.rows) == 30 and taken == [30]
