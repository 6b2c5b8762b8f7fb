"""The loader: order, determinism, resuming, bad samples, reused buffers, threads that end."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from image_classification.errors import AlgorithmError, DataError
from image_classification.images.augment import Augmentation
from image_classification.images.encode import encode_jpeg
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.loading.bad_samples import BadSamples, parse_limit
from image_classification.loading.loader import Loader
from image_classification.loading.order import epoch_order, step_generator
from image_classification.loading.sources import Source
from image_classification.samples import Batch, IntArray, Sample

PREPROCESSING = Preprocessing(24, 24, resize=28)
FILES = [
    encode_jpeg(np.random.default_rng(n).integers(0, 256, (40 + n, 50, 3)).astype(np.uint8))
    for n in range(23)
]


class Pictures(Source):
    """A source in memory: 23 noisy pictures, some of which may be damaged or slow."""

    name = "pictures"

    def __init__(self, damaged: tuple[int, ...] = (), delay: float = 0.0) -> None:
        self.damaged = damaged
        self.delay = delay
        self.class_indices: IntArray = np.arange(len(FILES)) % 3
        self.reads = self.inside = 0

    def __len__(self) -> int:
        return len(FILES)

    def key(self, index: int) -> str:
        return f"picture-{index}.jpg"

    def read(self, index: int) -> Sample:
        self.reads += 1
        self.inside += 1
        # Some samples take longer, so that threads finish out of order.
        time.sleep(self.delay * (index % 3))
        self.inside -= 1
        data = FILES[index][:200] if index in self.damaged else FILES[index]
        return Sample(self.key(index), int(self.class_indices[index]), data)


Copy = tuple[bytes, tuple[int, ...], tuple[str, ...]]


def copies(batches: object) -> list[Copy]:
    return [
        (batch.images.tobytes(), tuple(batch.targets.tolist()), batch.keys)
        for batch in batches  # type: ignore[attr-defined]
    ]


def augmented(threads: int = 1, **options: object) -> Loader:
    source = options.pop("source", None) or Pictures(delay=0.002)
    augmentation = Augmentation(crop="random_resized", horizontal_flip=0.5)
    return Loader(
        source, PREPROCESSING, 5, augmentation=augmentation, shuffle=True, seed=7,
        threads=threads, **options,
    )  # type: ignore[arg-type]  # fmt: skip


def working() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("loader")}


def test_batches_are_the_same_bit_for_bit_with_1_2_and_4_threads() -> None:
    epochs = []
    for threads in (1, 2, 4):
        with augmented(threads) as loader:
            epochs.append([copies(loader.epoch(number)) for number in (0, 1)])
    assert epochs[0] == epochs[1] == epochs[2]
    assert epochs[0][0] != epochs[0][1], "an epoch must have an order of its own"


def test_a_preview_shows_the_first_batch_bit_for_bit_and_changes_nothing() -> None:
    with augmented() as loader:
        epochs = [copies(loader.epoch(number)) for number in (0, 1)]
        batch = next(loader.epoch(0))
        for most, slots in ((8, [0, 1, 2, 3, 4]), (4, [0, 1, 3, 4]), (2, [0, 4])):
            indices, images = loader.preview(most)
            np.testing.assert_array_equal(images, batch.images[slots])
            assert indices.tolist() == batch.indices[slots].tolist()
        assert [copies(loader.epoch(number)) for number in (0, 1)] == epochs
        halfway = loader.epoch(2)
        begun = [next(halfway)]
        loader.preview(4)
        rest = copies([*begun, *halfway])[1:]
        assert rest == copies(loader.epoch(2))[1:]


def test_a_preview_leaves_out_bad_samples_without_counting_them() -> None:
    first = int(epoch_order(len(FILES), 7, 0)[0])
    bad = BadSamples(0)
    with augmented(source=Pictures(damaged=(first,)), bad_samples=bad) as loader:
        indices, images = loader.preview(4)
    assert len(images) == 3 and first not in indices.tolist() and not bad.reasons


def test_an_unshuffled_epoch_has_every_sample_in_order_and_a_shorter_last_batch() -> None:
    with Loader(Pictures(), PREPROCESSING, 5, threads=2) as loader:
        assert loader.steps == 5
        batches = []
        for batch in loader.epoch(0):
            for image, key, target in zip(batch.images, batch.keys, batch.targets, strict=True):
                index = int(key.removeprefix("picture-").removesuffix(".jpg"))
                assert (image == preprocess(FILES[index], PREPROCESSING)).all()
                assert target == index % 3
            assert batch.weights.dtype == np.float32 and (batch.weights == 1).all()
            batches.append(batch.keys)
        assert [len(keys) for keys in batches] == [5, 5, 5, 5, 3]
        assert sum(batches, ()) == tuple(f"picture-{n}.jpg" for n in range(23))
        assert loader.samples == 23
        assert copies(loader.epoch(1)) == copies(loader.epoch(0))


def test_resuming_in_mid_epoch_gives_the_batches_that_were_left() -> None:
    with augmented(threads=2) as loader:
        whole = copies(loader.epoch(3))
        for first_step in (1, 4, 5):
            assert copies(loader.epoch(3, first_step)) == whole[first_step:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 30])
def test_every_sample_is_read_exactly_once_over_all_ranks(world_size: int) -> None:
    for shuffle in (False, True):
        parts = [epoch_order(23, 7, 1, rank, world_size, shuffle) for rank in range(world_size)]
        assert sorted(np.concatenate(parts).tolist()) == list(range(23))
        assert {len(part) for part in parts} <= {23 // world_size, 23 // world_size + 1}
        assert all(part.dtype == np.int64 for part in parts)


def test_all_ranks_have_the_same_number_of_steps_with_different_samples() -> None:
    keys: list[str] = []
    for rank in range(4):  # 6, 6, 6 and 5 samples
        with augmented(rank=rank, world_size=4) as loader:
            assert loader.steps == 2
            batches = copies(loader.epoch(0))
            assert [len(batch[2]) for batch in batches] == [5, 1 if rank < 3 else 0]
            keys += [key for batch in batches for key in batch[2]]
    assert sorted(keys) == sorted(Pictures().key(n) for n in range(23))


def test_the_order_changes_with_seed_and_epoch_and_nothing_else() -> None:
    orders = {tuple(epoch_order(23, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert (epoch_order(1000, 5, 2) == epoch_order(1000, 5, 2)).all()
    assert epoch_order(8, 0, 0).tolist() == [2, 4, 3, 6, 5, 0, 1, 7], "numpy's stream has changed"


def test_every_step_has_random_numbers_of_its_own() -> None:
    places = np.ndindex(2, 2, 2, 2)  # seed, epoch, rank, step
    first = {step_generator(*place).random() for place in places}
    assert len(first) == 16


def test_a_bad_sample_is_left_out_and_the_others_keep_their_labels() -> None:
    bad = BadSamples(limit=4)
    source = Pictures(damaged=(0, 7, 22))
    with Loader(source, PREPROCESSING, 5, threads=2, bad_samples=bad) as loader:
        for _ in range(2):
            keys = []
            for batch in loader.epoch(0):
                assert batch.images.shape == (len(batch), 24, 24, 3)
                assert len(batch.targets) == len(batch.weights) == len(batch)
                for image, key, target in zip(batch.images, batch.keys, batch.targets, strict=True):
                    index = int(key.removeprefix("picture-").removesuffix(".jpg"))
                    assert (image == preprocess(FILES[index], PREPROCESSING)).all()
                    assert target == index % 3
                keys += batch.keys
            assert keys == [source.key(n) for n in range(23) if n not in source.damaged]
            assert loader.samples == 20
    assert set(bad.reasons) == {source.key(n) for n in source.damaged}, "once, not once an epoch"
    assert "truncated or corrupt" in bad.reasons["picture-7.jpg"]


def test_an_image_that_memory_does_not_suffice_for_is_a_bad_sample_of_that_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def greedy(data: bytes, *rest: object) -> object:
        if data == FILES[7]:
            raise MemoryError
        return preprocess(data, *rest)

    monkeypatch.setattr("image_classification.loading.loader.preprocess", greedy)
    bad = BadSamples(limit=1)
    with Loader(Pictures(), PREPROCESSING, 5, bad_samples=bad) as loader:
        assert sum(len(batch) for batch in loader.epoch(0)) == len(FILES) - 1
    assert list(bad.reasons) == ["picture-7.jpg"]
    assert "out of memory" in bad.reasons["picture-7.jpg"]
    with Loader(Pictures(), PREPROCESSING, 5) as loader, pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    assert "picture-7.jpg: out of memory" in str(caught.value)


def test_a_bad_sample_is_logged_once_by_name(caplog: pytest.LogCaptureFixture) -> None:
    bad = BadSamples(limit=2)
    for _ in range(3):
        bad.report("a.jpg", "truncated")
    assert [record.getMessage() for record in caplog.records] == ["skipped a.jpg: truncated"]
    assert len(bad) == 1


def test_the_classes_whose_samples_are_all_bad_are_known() -> None:
    damaged = tuple(i for i in range(len(FILES)) if i % 3 == 1)
    for bad, lost in ((damaged, [1]), (damaged[1:], []), ((), [])):
        with Loader(Pictures(bad), PREPROCESSING, 4, bad_samples=BadSamples(9)) as loader:
            list(loader.epoch(0))
            assert loader.lost_classes() == lost


def test_a_batch_of_bad_samples_only_is_empty() -> None:
    source = Pictures(damaged=tuple(range(5)))
    with Loader(source, PREPROCESSING, 5, bad_samples=BadSamples(5)) as loader:
        assert [len(batch) for batch in loader.epoch(0)] == [0, 5, 5, 5, 3]


def test_the_first_bad_sample_ends_the_job_and_is_named_unless_some_are_allowed() -> None:
    with Loader(Pictures(damaged=(7,)), PREPROCESSING, 5) as loader:
        with pytest.raises(DataError, match=r"picture-7.jpg: .*truncated.*repair or remove"):
            list(loader.epoch(0))


def test_ten_of_too_many_bad_samples_are_named() -> None:
    source = Pictures(damaged=tuple(range(13)))
    bad = BadSamples(limit=12)
    with Loader(source, PREPROCESSING, 5, bad_samples=bad) as loader:
        with pytest.raises(DataError) as raised:
            list(loader.epoch(0))
    message = str(raised.value)
    assert "at most 12 bad samples, got 13" in message and "and 3 more" in message
    assert message.count("picture-") == 10


@pytest.mark.parametrize(
    ("text", "limit"), [("0", 0), ("5", 5), ("1%", 3), ("0.5 %", 1), ("100%", 333), ("0%", 0)]
)
def test_the_budget_is_a_count_or_a_share(text: str, limit: int) -> None:
    assert parse_limit(text, 333) == limit


@pytest.mark.parametrize("text", ["", "-1", "some", "101%", "nan%", "inf%", "1.5", "1_0", "1_0%"])
def test_an_unreadable_budget_is_refused(text: str) -> None:
    with pytest.raises(DataError, match='a count such as "5" or a share such as "1%", got'):
        parse_limit(text, 100)


def test_a_batch_stays_as_it_is_until_the_next_is_asked_for() -> None:
    with augmented(threads=2, prefetch=1) as loader:
        expected = copies(loader.epoch(0))
        for batch, (pixels, _, _) in zip(loader.epoch(0), expected, strict=True):
            time.sleep(0.02)  # time for the threads to fill everything they may
            assert batch.images.tobytes() == pixels


def test_an_epoch_uses_the_same_few_buffers_again_and_again() -> None:
    with augmented(threads=2, prefetch=1) as loader:
        places = {
            batch.images.__array_interface__["data"][0]
            for number in range(4)
            for batch in loader.epoch(number)
        }
    assert len(places) == 3  # prefetch + 2


def test_memory_does_not_grow_with_the_epochs() -> None:
    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 1e6

    with Loader(Pictures(), Preprocessing(224, 224, resize=224), 16, threads=2) as loader:
        for number in range(3):
            assert sum(len(batch) for batch in loader.epoch(number)) == 23
        gc.collect()
        before = resident()
        for number in range(30):
            assert sum(len(batch) for batch in loader.epoch(number)) == 23
        gc.collect()
        assert resident() - before < 5  # an epoch is 3.5 MB of pixels


@pytest.mark.parametrize("leave", ["break", "exception", "keep"])
def test_leaving_an_epoch_early_stops_the_work_and_the_next_epoch_is_whole(leave: str) -> None:
    source = Pictures(delay=0.002)
    with augmented(threads=2, source=source) as loader:
        expected = copies(loader.epoch(1))
        batches = loader.epoch(0)
        if leave == "exception":
            with pytest.raises(ZeroDivisionError):
                for _ in loader.epoch(0):
                    _ = 1 / 0
        elif leave == "break":
            for _ in loader.epoch(0):
                break
        else:
            next(batches)
        if leave != "keep":
            reads = source.reads
            time.sleep(0.05)
            assert source.reads == reads, "threads still read samples nobody wants"
        assert copies(loader.epoch(1)) == expected
        if leave == "keep":
            with pytest.raises(AlgorithmError, match="another epoch"):
                next(batches)


def test_leaving_an_epoch_waits_only_for_samples_that_are_being_decoded() -> None:
    source = Pictures(delay=0.05)
    with Loader(source, PREPROCESSING, 16, threads=1) as loader:
        batches = loader.epoch(0)
        next(batches)
        time.sleep(0.02)
        began = time.perf_counter()
        batches.close()
        assert time.perf_counter() - began < 0.2, "a task of eight samples takes 0.4 seconds"
        assert source.inside == 0, "a thread may still write into a buffer"


def test_closing_the_loader_ends_its_threads() -> None:
    before = working()
    loader = augmented(threads=3)
    batches = loader.epoch(0)
    next(batches)
    assert len(working() - before) == 3
    loader.close()
    loader.close()
    assert working() == before
    with pytest.raises(AlgorithmError, match="closed"):
        next(batches)


class Unplugged(Pictures):
    """A source whose disk fails at one sample."""

    def read(self, index: int) -> Sample:
        if index == 12:
            raise OSError(5, "Input/output error", self.key(index))
        return super().read(index)


def test_an_error_that_is_not_a_bad_sample_reaches_the_caller_at_once() -> None:
    with Loader(Unplugged(), PREPROCESSING, 5, threads=2, bad_samples=BadSamples(99)) as loader:
        seen: list[Batch] = []
        with pytest.raises(OSError, match=r"picture-12\.jpg"):
            for batch in loader.epoch(0):
                time.sleep(0.2)
                seen.append(batch)
        assert len(seen) <= 1, "the failure of step 2 was known when step 1 was asked for"


def test_waiting_is_counted_for_each_epoch() -> None:
    with augmented(source=Pictures(delay=0.01)) as loader:
        list(loader.epoch(0))
        assert 0.1 < loader.wait_seconds < 5
        assert loader.samples == 23
        batches = loader.epoch(1)
        assert loader.wait_seconds == 0 and loader.samples == 0
        next(batches)
        time.sleep(0.3)  # everything is ready by now
        before = loader.wait_seconds
        next(batches)
        assert loader.wait_seconds - before < 0.05
        assert loader.samples == 10
