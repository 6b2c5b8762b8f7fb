"""scripts/device-check: whatever a check does, the report is whole, and the next check runs.

The checks here are small programs that the tests write.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from device_checks.catalog import CHECKS

from image_classification.devices.machine import device_files
from image_classification.images.encode import encode_jpeg
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.benchmark

SCRIPTS = REPOSITORY / "scripts"

DRIVER = """
import sys
from device_checks.__main__ import main
from device_checks.catalog import Check

checks = [Check(name, name, "", seconds, name, modules) for name, seconds, modules in CHECKS]
status = main(sys.argv[1:], checks)
assert not {"torch", "numpy"} & set(sys.modules), "the parent must not depend on what it checks"
sys.exit(status)
"""

FINE = """
def run(given):
    given.rows.note("sort", "fine | good")
    given.rows.goal("error", 0.5, "≤", 1)
"""

Finished = subprocess.CompletedProcess[str]


class Checks:
    """Checks in a folder of their own, and the command that runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "report"
        self.rows: list[tuple[str, float, tuple[str, ...]]] = []
        self.temporary = folder / "temporary"
        self.temporary.mkdir()

    def add(self, name: str, program: str, seconds: float = 30, *modules: str) -> None:
        (self.folder / f"{name}.py").write_text(textwrap.dedent(program))
        self.rows.append((name, seconds, modules))

    def start(
        self, *words: str, env_added: Mapping[str, str] = MappingProxyType({}), **settings: Any
    ) -> subprocess.Popen[str]:
        program = DRIVER.replace("CHECKS]", f"{self.rows!r}]")
        paths = [SCRIPTS, SCRIPTS / "benchmarks", REPOSITORY / "src", self.folder]
        own = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "TMPDIR": str(self.temporary)}
        return subprocess.Popen(
            [sys.executable, "-c", program, "--cpu", "--output", str(self.output), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | own | dict(env_added),
            **settings,
        )

    def run(self, *words: str, **settings: Any) -> Finished:
        process = self.start(*words, **settings)
        out, errors = process.communicate(timeout=60)
        return Finished(process.args, process.returncode, out, errors)

    @property
    def page(self) -> str:
        return (self.output / "report.md").read_text("utf-8")

    def report(self) -> dict[str, dict[str, Any]]:
        """The entries of report.json by name; both files are whole and agree."""
        content = json.loads((self.output / "report.json").read_text("utf-8"))
        page = self.page
        assert page.startswith(f"# Device check: {content['verdict']}\n") and page.endswith("\n")
        for check in content["checks"]:
            assert f"\n| {check['name']} | " in page
            assert check["status"] in page
        return {check["name"]: check for check in content["checks"]}


@pytest.fixture
def checks(tmp_path: Path) -> Checks:
    return Checks(tmp_path)


def await_that(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_all_goals_reached_is_status_0_and_speed_is_not_judged_on_the_cpu(checks: Checks) -> None:
    checks.add("fine", FINE)
    slow = "def run(given):\n given.rows.expect('a', 1, 1)\n"
    checks.add("slow", slow + " given.rows.goal('speed', 0.1, '≥', 0.95, is_speed=True)\n")
    ran = checks.run()
    assert ran.returncode == 0, ran.stderr
    found = checks.report()
    assert [found[name]["status"] for name in ("fine", "slow")] == ["passed", "passed"]
    speed = found["slow"]["rows"][1]
    assert (speed["holds"], speed["judged"], speed["bound"]) == (False, False, "≥ 0.95")
    assert "| speed | 0.1 | ≥ 0.95 | not judged |" in checks.page
    assert "| sort | fine \\| good |" in checks.page
    assert "fine: passed" in ran.stdout
    assert not list(checks.temporary.iterdir())


@pytest.mark.parametrize("value", ["2", "float('nan')"])
def test_a_goal_that_is_missed_is_status_1_and_named(checks: Checks, value: str) -> None:
    checks.add("bad", f"def run(given):\n given.rows.goal('error', {value}, '≤', 1)\n")
    ran = checks.run()
    assert ran.returncode == 1
    assert checks.report()["bad"]["status"] == "failed"
    (line,) = re.findall(r"^- bad: error: .*, not ≤ 1$", checks.page, re.MULTILINE)
    assert line.removeprefix("- bad: ") in ran.stdout


def test_a_check_that_judges_nothing_does_not_pass(checks: Checks) -> None:
    checks.add("empty", "def run(given):\n given.rows.note('a', 1)\n")
    assert checks.run().returncode == 1
    assert checks.report()["empty"]["reason"] == "it judged nothing"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_check_that_hangs_is_ended_with_all_its_processes_and_the_next_one_runs(
    checks: Checks,
) -> None:
    program = """
    import subprocess, time

    def wait_for_ever():
        time.sleep(1000)

    def run(given):
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        given.rows.note("child", child.pid)
        wait_for_ever()
    """
    checks.add("hangs", program, 2)
    checks.add("fine", FINE)
    assert checks.run().returncode == 1
    found = checks.report()
    assert found["hangs"]["status"] == "timed out"
    assert found["hangs"]["reason"] == "it was ended after 2 s"
    assert not is_alive(found["hangs"]["rows"][0]["value"])
    assert any("wait_for_ever" in line for line in found["hangs"]["log"])
    assert found["fine"]["status"] == "passed"


@pytest.mark.parametrize(
    ("end", "reason", "last"),
    [
        ("raise ValueError('the ```reason```')", "exit status 1", "ValueError: the '''reason'''"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL", ""),
    ],
)
def test_a_check_that_crashes_keeps_what_it_found_and_the_next_one_runs(
    checks: Checks, end: str, reason: str, last: str
) -> None:
    checks.add("crashes", f"def run(given):\n given.rows.expect('a', 1, 1)\n {end}\n")
    checks.add("fine", FINE)
    assert checks.run().returncode == 1
    found = checks.report()
    assert (found["crashes"]["status"], found["crashes"]["reason"]) == ("crashed", reason)
    assert [row["name"] for row in found["crashes"]["rows"]] == ["a"]
    assert not last or found["crashes"]["log"][-1] == last
    assert found["fine"]["status"] == "passed"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_left_behind_fails_its_check_and_is_ended(checks: Checks) -> None:
    program = """
    import subprocess

    def run(given):
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        given.rows.expect("child", child.pid, child.pid)
    """
    checks.add("leaves", program)
    assert checks.run().returncode == 1
    found = checks.report()["leaves"]
    assert (found["status"], found["reason"]) == ("failed", "1 processes were left behind")
    assert not is_alive(found["rows"][0]["value"])


WAITS = """
import os, pathlib, time

def run(given):
    given.rows.expect("a", 1, 1)
    pathlib.Path(__file__).with_name("waiting").write_text(str(os.getpid()))
    time.sleep(1000)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_in_the_middle_leaves_both_files_whole_and_no_process(
    checks: Checks, number: signal.Signals
) -> None:
    checks.add("fine", FINE)
    checks.add("waits", WAITS)
    checks.add("later", FINE)
    process = checks.start()
    mark = checks.folder / "waiting"
    await_that(lambda: mark.exists() and bool(mark.read_text()))
    process.send_signal(number)
    process.communicate(timeout=30)
    found = checks.report()
    is_kill = number == signal.SIGKILL
    assert process.returncode == (-number if is_kill else 1)
    assert found["fine"]["status"] == "passed"
    assert found["waits"]["status"] == ("running" if is_kill else "interrupted")
    assert (found["later"]["status"], found["later"]["rows"]) == ("not run", [])
    if not is_kill:
        assert found["later"]["reason"] == "interrupted by SIGTERM"
        assert [row["name"] for row in found["waits"]["rows"]] == ["a"]
    await_that(lambda: not is_alive(int(mark.read_text())))


def test_no_check_begins_when_the_time_is_over_and_that_is_no_pass(checks: Checks) -> None:
    checks.add("fine", FINE)
    ran = checks.run("--minutes", "0.01")
    assert ran.returncode == 1
    assert checks.report()["fine"]["reason"] == "the 0.01 minutes were over"


def test_other_checks_than_those_asked_for_do_not_count(checks: Checks) -> None:
    checks.add("fine", FINE)
    checks.add("bad", "def run(given):\n given.rows.goal('error', 2, '≤', 1)\n")
    assert checks.run("--only", "fine").returncode == 0
    assert checks.report()["bad"]["reason"] == "not selected"


@pytest.mark.parametrize("limit", [0, 2000])
def test_a_full_disk_is_an_error_that_names_the_file_and_what_to_do(
    checks: Checks, limit: int
) -> None:
    """With the larger limit the first report fits, the later ones do not; the check runs."""
    program = "def run(given):\n for i in range(9): given.rows.expect(f'row {i} ' + 99 * 'x', 1, 1)"
    checks.add("long", program)
    ran = checks.run(
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)
        )
    )
    assert ran.returncode == 2
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("scripts/device-check: cannot write ") and "--output" in last
    assert "Traceback" not in ran.stderr
    if limit:
        assert checks.report()["long"]["status"] in ("not run", "running")
        assert "going on" in ran.stderr and "long: " in ran.stdout
    assert not list(checks.output.glob("*.partial"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--only", "nonsense"], "nonsense"),
        (["--minutes", "0"], "expected minutes, more than 0"),
        (["--minutes", "x"], "expected minutes, more than 0"),
        (["--minutes", "2000"], "and at most 1440, got '2000'"),
        (["--photos", "/nowhere"], "--photos /nowhere: expected a folder with photographs"),
        (["--output", "/dev/null/report"], "cannot write /dev/null/report: Not a directory"),
    ],
)
def test_a_wrong_command_line_is_status_2_with_what_to_do(
    checks: Checks, words: list[str], text: str
) -> None:
    checks.add("fine", FINE)
    ran = checks.run(*words)
    assert ran.returncode == 2 and text in ran.stderr and "Traceback" not in ran.stderr


def test_a_folder_without_a_single_jpeg_is_refused_whatever_its_files_are_called(
    checks: Checks,
) -> None:
    photographs = checks.folder / "photographs"
    (photographs / "folder.jpg").mkdir(parents=True)
    (photographs / "text.jpeg").write_text("no photograph")
    (photographs / "empty.jpg").touch()
    checks.add("fine", FINE)
    ran = checks.run("--photos", str(photographs))
    assert ran.returncode == 2 and "found none" in ran.stderr and "Traceback" not in ran.stderr


def test_a_second_run_with_the_same_folder_is_refused_and_the_first_keeps_its_report(
    checks: Checks,
) -> None:
    checks.add("waits", WAITS)
    first = checks.start()
    mark = checks.folder / "waiting"
    await_that(lambda: mark.exists() and bool(mark.read_text()))
    second = checks.run()
    first.terminate()
    first.communicate(timeout=30)
    assert second.returncode == 2
    assert "another run writes its report to" in second.stderr and "--output" in second.stderr
    assert checks.report()["waits"]["status"] == "interrupted"


def test_a_name_that_is_no_text_and_a_terminal_without_unicode_end_no_run(checks: Checks) -> None:
    checks.output = checks.folder / os.fsdecode(b"report \xff")
    checks.add("bad", "def run(given):\n given.rows.goal(chr(0xDCFF), 2, '≤', 1)\n")
    ran = checks.run(env_added={"PYTHONIOENCODING": "ascii"})
    assert ran.returncode == 1, ran.stderr
    assert "\\udcff: 2, not \\u2264 1" in ran.stdout and "\\udcff: 2, not ≤ 1" in checks.page


def test_a_missing_package_is_named_with_the_checks_that_do_without_it(checks: Checks) -> None:
    checks.add("fine", FINE)
    checks.add("other", FINE, 30, "no_such_package")
    ran = checks.run()
    assert ran.returncode == 2
    assert f"{sys.executable} has no no_such_package: set PYTHON" in ran.stderr
    assert "--only fine" in ran.stderr
    assert checks.run("--only", "fine").returncode == 0


@pytest.mark.skipif(device_files() > 0, reason="this machine has a GPU")
def test_without_a_gpu_the_script_ends_at_once_and_names_the_option_for_the_cpu() -> None:
    names = [check.name for check in CHECKS if all(map(importlib.util.find_spec, check.modules))]
    if not names:
        pytest.skip("PyTorch is not installed")
    ran = subprocess.run(
        [SCRIPTS / "device-check", "--only", *names],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "no NVIDIA GPU" in ran.stderr and "--cpu" in ran.stderr


def test_the_list_has_every_check_and_each_has_a_program() -> None:
    ran = subprocess.run(
        [SCRIPTS / "device-check", "--list"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0
    assert [line.split()[0] for line in ran.stdout.splitlines()] == [c.name for c in CHECKS]
    for check in CHECKS:
        source = SCRIPTS.joinpath(*check.program.split(".")).with_suffix(".py")
        assert "\ndef run(given: Given) -> None:\n" in source.read_text("utf-8")


class Doubling:
    """A device that returns twice the first value of each image, and takes a while."""

    providers = ("fake",)
    outputs: frozenset[str] = frozenset()

    def host_buffer(self, shape: tuple[int, ...]) -> Any:
        return np.zeros(shape, np.uint8)

    def bound(self, _: tuple[int, ...]) -> Doubling:
        return self

    def run(self, images: Any) -> Any:
        time.sleep(0.001)
        return 2 * images[:, 0, 0].astype(np.float32)


def test_photographs_that_cannot_be_used_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS / "benchmarks")
    from device_checks import pictures
    from device_checks.one import Given
    from device_checks.rows import Rows, read_rows

    photographs, rows = tmp_path / "own", tmp_path / "rows"
    (photographs / "b.jpg").mkdir(parents=True)
    (photographs / "a.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    given = Given(True, tmp_path, tmp_path, photographs, Rows(rows, judges_speed=False))
    with pytest.raises(SystemExit, match=r"no photograph can be used; a\.jpg: "):
        pictures._fill(given, 2, tmp_path)
    for name in ("c.jpg", "d 'e'.JPG"):
        (photographs / name).write_bytes(encode_jpeg(np.zeros((9, 9, 3), np.uint8), 90))
    assert len(pictures.files(given, 2)) == 2
    row = read_rows(rows)[-1]
    assert row.name == "photographs left out" and str(row.value).startswith("2; the first is a.jpg")


def test_a_batcher_under_load_is_measured_with_its_answers() -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from device_checks.load import MAX_BATCH, speed_of

    images = np.arange(40, dtype=np.uint8).reshape(-1, 1, 1, 1)
    found = speed_of(Doubling(), images, threads=2, clients=4, seconds=0.1)
    assert found.probabilities.ravel().tolist() == [2 * value for value in range(40)]
    assert found.images_per_second > 0 and 0 < found.busy_share <= 1
    assert 1 <= found.images_per_run <= MAX_BATCH


# ---- what only a GPU runs, with a PyTorch that reports one


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What a check gets on a machine with a GPU; `rows()` returns what it has written."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from device_checks.one import Given
    from device_checks.rows import Rows, read_rows

    monkeypatch.syspath_prepend(SCRIPTS / "benchmarks")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    product = SimpleNamespace(
        name="Tesla T4", major=7, minor=5, total_memory=15 << 30, multi_processor_count=40
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: product)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (14 << 30, 15 << 30))
    path = tmp_path / "rows"
    given = Given(False, tmp_path, tmp_path, None, Rows(path, judges_speed=True))
    return SimpleNamespace(given=given, rows=lambda: {r.name: r for r in read_rows(path)})


def test_the_facts_of_a_gpu_are_in_the_report(gpu: Any) -> None:
    from device_checks import machine

    machine.run(gpu.given)
    rows = gpu.rows()
    assert rows["GPU 0"].value == "Tesla T4, compute capability 7.5, 15.0 GiB, 40 multiprocessors"
    assert rows["GPUs that PyTorch sees"].holds


def test_a_wait_that_pytorch_reports_is_named_with_its_place(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from device_checks import operators, waits

    from image_classification.backends.torch import engine

    modes, losses, batch = ["default"], engine._sample_losses, waits._batch

    def waiting(*arguments: Any) -> Any:
        if modes[-1] == "error" and arguments[2].averages_weights:
            raise RuntimeError("called a synchronizing CUDA operation")
        return losses(*arguments)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(engine, "_sample_losses", waiting)
    monkeypatch.setattr(operators, "SETTINGS", operators.SETTINGS[:2])
    monkeypatch.setattr(waits, "_batch", lambda _: batch(2))
    waits.run(gpu.given)
    found = gpu.rows()
    assert found["waits: defaults"].holds and found["waits: precision=float16"].holds
    row = found["waits: averages_weights=True, clip_gradient_norm=1.0"]
    assert not row.holds and row.value.startswith("called a synchronizing CUDA operation at backe")
    assert modes[-1] == "default"


def test_a_gpu_with_little_memory_gets_a_smaller_batch_in_the_check_of_speed(gpu: Any) -> None:
    from device_checks import speed

    assert speed._batch_size(gpu.given) == 64
