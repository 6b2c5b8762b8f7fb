"""A split by groups tears no group apart and still divides every class about alike."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classification.errors import UsageError
from image_classification.labels.split import (
    stratified_group_split,
    stratified_multi_label_split,
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_group_is_in_two_subsets_and_every_sample_is_in_one(data: st.DataObject) -> None:
    count = data.draw(st.integers(8, 120))
    classes = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    drawn = data.draw(st.lists(st.integers(0, count // 2), min_size=count, max_size=count))
    groups = [f"g{number}" for number in drawn]
    try:
        parts = stratified_group_split(classes, groups, (0.6, 0.2, 0.2), seed=1)
    except UsageError:
        assert len(set(groups)) < 12
        return
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    members = [{groups[i] for i in part} for part in parts]
    assert not members[0] & members[1] and not members[0] & members[2]
    assert not members[1] & members[2]


def test_shares_are_met_within_a_group_for_every_class() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), 5)
    classes = np.repeat(generator.integers(0, 4, 400), 5)
    parts = stratified_group_split(classes, [str(g) for g in groups], (0.7, 0.2, 0.1), seed=3)
    totals = np.bincount(classes)
    for part, share in zip(parts, (0.7, 0.2, 0.1), strict=True):
        assert np.abs(np.bincount(classes[part]) - share * totals).max() <= 5


def test_the_seed_decides_and_the_order_of_groups_does_not_matter() -> None:
    classes = np.arange(60) % 3
    groups = [str(i // 2) for i in range(60)]
    one, same, other = (
        stratified_group_split(classes, groups, (0.5, 0.5, 0.0), seed) for seed in (1, 1, 2)
    )
    assert one.train.tolist() == same.train.tolist() != other.train.tolist()


def test_too_few_groups_for_the_subsets_are_refused() -> None:
    with pytest.raises(UsageError, match="1 groups are too few"):
        stratified_group_split(np.zeros(9, np.int64), ["a"] * 9, (0.8, 0.2, 0.0), seed=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_samples_of_several_classes_are_divided_so_that_no_class_is_missing(
    data: st.DataObject,
) -> None:
    count, classes = data.draw(st.integers(10, 80)), data.draw(st.integers(2, 5))
    rows = data.draw(
        st.lists(
            st.lists(st.integers(0, 1), min_size=classes, max_size=classes),
            min_size=count,
            max_size=count,
        )
    )
    multi_hot = np.array(rows, np.uint8)
    parts = stratified_multi_label_split(
        multi_hot, (), (0.7, 0.3, 0), seed=data.draw(st.integers(0, 9))
    )
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    again = stratified_multi_label_split(multi_hot, (), (0.7, 0.3, 0), seed=3)
    assert all(
        map(np.array_equal, again, stratified_multi_label_split(multi_hot, (), (0.7, 0.3, 0), 3))
    )
    totals = multi_hot.sum(axis=0)
    # A class of 4 or more can always be in both; images of several rare classes may clash below.
    for subset in parts[:2]:
        assert multi_hot[subset].any(axis=0)[totals >= 8].all()


def test_independent_classes_are_divided_exactly_by_their_shares() -> None:
    rows = [[1, 0, 0]] * 50 + [[1, 1, 0]] * 20 + [[0, 0, 1]] * 2 + [[0, 0, 0]] * 10
    multi_hot = np.array(rows, np.uint8)
    train, validation, test = stratified_multi_label_split(multi_hot, (), (0.8, 0.1, 0.1), seed=0)
    assert multi_hot[validation].sum(axis=0).tolist() == [7, 2, 1]
    assert multi_hot[test].sum(axis=0).tolist() == [7, 2, 0]
    assert [int((~multi_hot[part].any(axis=1)).sum()) for part in (train, validation, test)] == [
        8, 1, 1,
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"too few for the ratios 0\.4, 0\.3, 0\.3: one"):
        stratified_multi_label_split(multi_hot[:2], (), (0.4, 0.3, 0.3), seed=0)


def test_validation_gets_a_group_if_there_are_two_and_it_takes_no_class_from_training() -> None:
    classes = np.repeat([0, 0, 1, 1, 2, 2], 2)  # two groups of two images per class
    groups = [f"g{i // 2}" for i in range(12)]
    train, validation, test = stratified_group_split(classes, groups, (0.8, 0.2, 0.0), 0)
    assert len(validation) == 2 and not len(test)
    assert set(classes[train].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("classes", "images", "is_grouped", "seed", "digest"),
    [
        (5, 60, False, 0, "441b46a92d8b334d"),
        (40, 900, False, 7, "e6b9f026d7bbce8f"),
        (12, 300, True, 0, "f5669a9af7e973be"),
    ],
)
def test_a_multi_label_split_is_the_same_in_every_version_for_the_same_seed(
    classes: int, images: int, is_grouped: bool, seed: int, digest: str
) -> None:
    generator = np.random.default_rng(classes)
    likely = generator.random((images, classes))
    multi_hot = (likely < generator.random(classes) * 0.3).astype(np.uint8)
    groups = [f"g{i}" for i in generator.integers(0, images // 4, images)] if is_grouped else ()
    split = stratified_multi_label_split(multi_hot, groups, (0.7, 0.2, 0.1), seed)
    content = b"".join(np.asarray(part, "<i8").tobytes() for part in split)
    assert hashlib.sha256(content).hexdigest()[:16] == digest


def test_a_multi_label_split_takes_about_a_byte_per_image_and_class() -> None:
    multi_hot = (np.random.default_rng(1).random((2000, 1000)) < 0.01).astype(np.uint8)
    tracemalloc.start()
    stratified_multi_label_split(multi_hot, (), (0.8, 0.1, 0.1), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * multi_hot.size  # 16 bytes once
