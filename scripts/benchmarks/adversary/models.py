"""Attack 6: a multi-model endpoint whose healthy models stand next to hostile ones."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from adversary.hostile_graphs import hostile_graphs
from adversary.ordinary import Seen, ordinary_callers
from adversary.rows import Row
from adversary.setting import Setting, say
from adversary.target import GIB, Target, attacked
from adversary.wire import counted, exchange, post

_HEALTHY = 2
_TIMEOUT = 3  # seconds of a run of a graph
_SETTINGS = {"SAGEMAKER_MULTI_MODEL": "true", "SAGEMAKER_MODEL_SERVER_TIMEOUT": str(_TIMEOUT)}
_PATIENCE = 60.0
_ROUND_SECONDS = 40  # for one hostile model: then the next


def attack(setting: Setting) -> Iterator[Row]:
    """Yield what healthy models answered while hostile ones were loaded, invoked and unloaded."""
    try:
        graphs = hostile_graphs(_shape(setting.model), _classes(setting.model))
    except ImportError as error:
        yield Row("hostile models", 0, f"skipped: {error}", "pip install onnx", None)
        return
    folder = setting.work / "models"
    hostile = {
        name: _artifact(setting.model, folder / name, graph) for name, graph in graphs.items()
    }
    hostile["changed on disk"] = _artifact(setting.model, folder / "changed on disk", None)
    with (hostile["changed on disk"] / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\1\2\3")
    photo = next(setting.photos.glob("*.jpg")).read_bytes()
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    callers = [Seen() for _ in range(_HEALTHY)]
    left, ends, kills = list(hostile), 0, 0
    while left:
        with attacked(Path("/none"), setting.work, limit=2 * GIB, settings=_SETTINGS) as target:
            worker = target.worker
            for number in range(_HEALTHY):
                if (status := _load(target, f"healthy{number}", setting.model)) != 200:
                    raise SystemExit(f"a healthy model was refused ({status}):\n{target.log()}")
            with ExitStack() as stack:
                now = [
                    stack.enter_context(
                        ordinary_callers(
                            target.port, setting.photos, 1, f"/models/healthy{n}/invoke"
                        )
                    )
                    for n in range(_HEALTHY)
                ]
                while left and target.is_running and target.worker == worker:
                    name = left.pop(0)
                    say(f"hostile model: {name}")
                    _try(target, name, hostile[name], photo, seen[name])
            ends += not target.is_running or target.worker != worker
            kills += target.kills()
            for mine, theirs in zip(callers, now, strict=True):
                mine.add(theirs)
    allowed = {200, 400, 409, 500, 503, 507}
    total: Counter[int] = sum(seen.values(), Counter())
    wrong = [f"{name}: {counted(c)}" for name, c in seen.items() if not set(c) <= allowed]
    yield Row(
        "hostile models: loads and invocations", sum(total.values()),
        "; ".join([counted(total), *wrong]),
        "400, 409 or 507 at load, 500 or 503 at invocation", not wrong,
    )  # fmt: skip
    yield Row(
        "hostile models: the server", len(seen), f"it ended {ends} times, {kills} kills",
        "it never ends, 0 kills", not ends and not kills,
    )  # fmt: skip
    for number, one in enumerate(callers):
        yield Row(
            f"hostile models: healthy model {number}", sum(one.posts.values()), one.callers(),
            "every one answered (200)", set(one.posts) == {200},
        )  # fmt: skip


def _try(target: Target, name: str, place: Path, photo: bytes, seen: Counter[int]) -> None:
    """Load a hostile model twice, invoke it by several callers at once, unload it."""
    label = name.replace(" ", "-")
    end = time.monotonic() + _ROUND_SECONDS

    def load() -> None:
        seen[_load(target, label, place)] += 1

    loading = [threading.Thread(target=load, daemon=True) for _ in range(2)]
    for one in loading:
        one.start()
    for one in loading:
        one.join()
    if 200 not in seen:
        return

    def invoke() -> None:
        for _ in range(2):
            if time.monotonic() < end and target.is_running:
                request = post(photo, "image/jpeg", f"/models/{label}/invoke")
                seen[exchange(target.port, request, _PATIENCE)[0]] += 1

    invoking = [threading.Thread(target=invoke, daemon=True) for _ in range(2)]
    for one in invoking:
        one.start()
    for one in invoking:
        one.join()
    head = f"DELETE /models/{label} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    seen[exchange(target.port, head, _PATIENCE)[0]] += 1


def _load(target: Target, name: str, place: Path) -> int:
    body = json.dumps({"model_name": name, "url": str(place)}).encode()
    return exchange(target.port, post(body, "application/json", "/models"), _PATIENCE)[0]


def _shape(model: Path) -> list[int]:
    """Return the (height, width, channels) of the pictures that a model takes."""
    return list(json.loads((model / "manifest.json").read_text())["input"]["shape"][1:])


def _classes(model: Path) -> int:
    return int(json.loads((model / "manifest.json").read_text())["classes"])


def _artifact(model: Path, folder: Path, graph: bytes | None) -> Path:
    """Copy an artifact and put `graph` in the place of its own, with a manifest that is right."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("weights*"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in [name for name in manifest["files"] if name.startswith("weights")]:
        del manifest["files"][name]
    if graph is not None:
        (folder / "model.onnx").write_bytes(graph)
        digest = hashlib.sha256(graph).hexdigest()
        manifest["files"]["model.onnx"] = {"bytes": len(graph), "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
