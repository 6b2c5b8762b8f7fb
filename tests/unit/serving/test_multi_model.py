"""The models of an endpoint and the memory that is accounted for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_classification.errors import ArtifactError, NoMemoryLeftError, RequestError
from image_classification.serving.admission import MemoryBudget
from image_classification.serving.multi_model import (
    Account,
    LoadedModel,
    ModelStore,
    memory_needed,
)


def model() -> LoadedModel:
    return LoadedModel(lambda _: (b"", ""), lambda: None, lambda: None)


def test_a_model_is_accounted_by_the_most_that_it_was_found_to_take(tmp_path: Path) -> None:
    found = [300, 200, 700]

    def load(_: Path, account: Account) -> LoadedModel:
        for size in found:
            account(size)
        return model()

    budget = MemoryBudget(1_000)
    store = ModelStore(load, budget, 9)
    store.load("one", str(tmp_path / "nothing"))
    assert budget.used == 700
    with pytest.raises(RequestError, match="1 model takes 0 of 0 MiB") as refused:
        store.load("two", str(tmp_path / "nothing"))
    assert refused.value.status == 507 and budget.used == 700
    found[:] = [300]
    store.load("two", str(tmp_path / "nothing"))
    store.unload("one")
    assert budget.used == 300


def test_the_index_of_features_counts_with_the_numbers_that_a_score_needs(tmp_path: Path) -> None:
    for name in ("model.onnx", "labels.json", "manifest.json"):
        (tmp_path / name).write_bytes(bytes(1000))
    without = memory_needed(tmp_path)
    (tmp_path / "feature-index.bin").write_bytes(bytes(1000))
    assert memory_needed(tmp_path) == without + 5000


def test_a_load_for_which_no_memory_is_left_is_507_and_a_bad_model_400(tmp_path: Path) -> None:
    reasons: list[Exception] = [NoMemoryLeftError("was killed"), ValueError("its fault")]

    def load(_: Path, account: Account) -> LoadedModel:
        try:
            try:
                raise reasons.pop(0)
            except Exception as error:
                raise ArtifactError("loading the graph failed") from error
        except ArtifactError as error:
            raise ArtifactError("model.tar.gz: loading the graph failed") from error

    store = ModelStore(load, MemoryBudget(1_000), 9)
    for status in (507, 400):
        with pytest.raises(RequestError, match="loading the graph failed") as refused:
            store.load("one", str(tmp_path / "nothing"))
        assert refused.value.status == status
