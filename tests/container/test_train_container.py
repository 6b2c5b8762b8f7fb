"""The train image with `docker run`, always without a network."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from image_classification.loading.records import RecordSource
from tests.conftest import ClassFolders
from tests.container.engine import docker, run, running, serving, train_image
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import ONE_HOST, write_job, write_wheel
from tests.contract.test_training_channels import pipe_job

PHOTOGRAPHS_JOB = {
    "backbone": "efficientnet_lite0",
    "use_pretrained_model": 1,
    "train_only_top_layer": 1,
    "epochs": 4,
    "learning_rate": 0.1,
    "lr_schedule": "cosine",
    "mini_batch_size": 32,
}


@pytest.mark.shared
def test_class_folders_become_predictions_in_containers_without_a_network(
    image: str, serve_image: str, flowers: Path, tmp_path: Path
) -> None:
    processing = tmp_path / "processing"
    (processing / "output").mkdir(parents=True)
    mounts = {processing: "/opt/ml/processing", flowers: "/opt/ml/processing/input"}
    done = run(image, "preprocess", "--resize", "256", volumes=mounts)
    assert done.returncode == 0, done.stdout + done.stderr
    channels = {name: processing / "output" / name for name in ("train", "validation")}
    assert all(list(channel.glob("*.rec")) for channel in channels.values())
    base = write_job(tmp_path / "ml", PHOTOGRAPHS_JOB, channels)
    done = run(image, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    accuracies = re.findall(r"Validation-accuracy=(\d\.\d+)", done.stdout)
    assert max(map(float, accuracies)) > 0.6  # 40 images, trained on 160; guessing reaches 0.2
    source = RecordSource(sorted(channels["validation"].glob("*.rec")))
    predictions = (base / "output" / "data" / "validation-predictions.jsonl").read_text()
    rows = {row["key"]: row for row in map(json.loads, predictions.splitlines())}
    with serving(serve_image, base / "model") as server:
        for index in range(0, len(source), 4):
            sample = source.read(index)
            answer = server.invoke(sample.data, Content_Type="image/jpeg").json()
            assert answer == pytest.approx(rows[sample.key]["probabilities"], abs=1e-4)


@pytest.mark.shared
def test_class_folders_train_as_well_as_records(image: str, flowers: Path, tmp_path: Path) -> None:
    given = PHOTOGRAPHS_JOB | {"interface": "tensorflow", "batch_size": 32}
    del given["mini_batch_size"], given["use_pretrained_model"]
    base = write_job(tmp_path / "ml", given | {"epochs": 3}, {"training": flowers})
    done = run(image, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    accuracies = re.findall(r"val_accuracy: (\d\.\d+)", done.stdout)
    assert max(map(float, accuracies)) > 0.6


def test_the_train_image_trains_without_an_argument_and_runs_chmod_for_sdk_v3(
    image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    given = HYPERPARAMETERS | {"epochs": 1}
    base = write_job(tmp_path / "ml", given, channels)
    done = run(image, volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_artifact(base / "model").labels.names == ("blue", "green", "red")
    secret = tmp_path / "ml" / "model" / "manifest.json"
    secret.chmod(0o600)
    done = run(image, "chmod", "-R", "777", "/delete", volumes={base: "/delete"})
    assert done.returncode == 0, done.stderr
    assert secret.stat().st_mode & 0o777 == 0o777


def test_everybody_can_change_and_remove_the_results_of_a_root_container(trained: Path) -> None:
    results = (trained / "model", trained / "output" / "data")
    written = [path for folder in results for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 5
    for path in written:
        assert path.stat().st_mode & 0o666 == 0o666, path


def test_a_container_run_as_the_user_leaves_files_that_the_user_owns(
    image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1}, channels)
    for path in (base, *base.rglob("*")):
        os.chown(path, 1234, 1234)
    for parent in base.parents:
        if parent.is_relative_to(tmp_path.parent.parent):
            parent.chmod(0o755)
    done = run(image, "train", volumes={base: "/opt/ml"}, options=["--user", "1234:1234"])
    assert done.returncode == 0, done.stdout + done.stderr
    owners = {path.stat().st_uid for path in (base / "model").iterdir()}
    assert owners == {1234}


def test_a_users_mistake_exits_2_with_the_message_in_the_failure_file(
    image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    base = write_job(tmp_path / "ml", {"optimiser": "sgd"}, channels)
    done = run(image, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 2
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith("ClientError: ") and "optimizer" in failure
    assert failure.splitlines()[0] in done.stdout + done.stderr
    assert not list((base / "model").iterdir())


SCRIPT = """
import os, signal, sys, time
import image_classification, petals
def stop(number, frame):
    open(os.environ["SM_MODEL_DIR"] + "/" + petals.NAME, "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", *sys.argv[1:], flush=True)
time.sleep(60)
"""


def script_job(root: Path, channels: dict[str, Path], code: dict[str, str], **given: str) -> Path:
    base = write_job(root / "ml", given, channels)
    (base / "code").mkdir()
    for name, text in code.items():
        (base / "code" / name).write_text(text)
    return base


def test_a_script_gets_its_requirements_without_a_network_and_sigterm_through_a_shell(
    image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    code = {
        "train.sh": 'python train.py "$@"\n',
        "train.py": SCRIPT,
        "requirements.txt": "petals\n",
    }
    base = script_job(tmp_path, channels, code, sagemaker_program="train.sh", token="hunter2")
    write_wheel(base / "code" / "wheels", "petals", "NAME = 'rose'")
    volumes = ["--network", "none", "-v", f"{base}:/opt/ml"]
    with running(image, "train", options=volumes) as container:
        container.wait_for("ready --token hunter2")
        assert container.stop(60) == 0, container.log()
    assert (base / "model" / "rose").is_file()


def test_torchrun_starts_the_processes_of_a_script_in_the_image_of_torch_alone(
    image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    text = "import os\nraise ValueError('rank ' + os.environ['RANK'])"
    given = {"sagemaker_program": "train.py", "sagemaker_torch_distributed_enabled": "true"}
    base = script_job(tmp_path, channels, {"train.py": text}, **given)
    host = ["--hostname", "algo-1", "--add-host", "algo-1:127.0.0.1"]  # as on SageMaker
    done = run(image, "train", volumes={base: "/opt/ml"}, options=host)
    reason = (base / "output" / "failure").read_text().splitlines()[0]
    if image.endswith("-torch"):
        assert done.returncode == 1, done.stdout + done.stderr
        assert reason.endswith("train.py ended with exit code 1: ValueError: rank 0"), done.stderr
    else:
        assert done.returncode == 2, done.stdout + done.stderr
        assert "sagemaker_torch_distributed_enabled: torchrun not found" in reason


@pytest.fixture
def torch_image() -> str:
    return train_image("torch")


def test_a_model_of_timm_trains_with_its_own_settings_and_is_served(
    torch_image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    given = {"backbone": "timm/mobilenetv3_small_050.lamb_in1k", "epochs": 1, "mini_batch_size": 8}
    base = write_job(tmp_path / "ml", given | {"image_shape": "3,64,64"}, channels)
    done = run(torch_image, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    settings = json.loads((base / "model" / "preprocessing.json").read_text())
    assert settings["interpolation"] == "bicubic"
    assert settings["mean"] == [123.675, 116.28, 103.53]
    picture = next((channels["train"] / "red").iterdir()).read_bytes()
    for parent in (base, *base.parents):
        if parent.is_relative_to(tmp_path.parent.parent):
            parent.chmod(0o755)
    with serving(torch_image, base / "model") as server:
        answer = server.invoke(picture, Content_Type="application/x-image")
        assert answer.status == 200 and len(answer.json()) == 3


def test_a_small_job_fits_in_1_gb_and_respects_the_cpu_limit(
    image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1}, channels)
    limits = ["--memory", "1g", "--memory-swap", "1g", "--cpus", "1"]
    done = run(image, "train", volumes={base: "/opt/ml"}, options=limits)
    assert done.returncode == 0, done.stdout + done.stderr
    code = "from image_classification.contract.process import cpu_count; print(cpu_count())"
    assert run(image, "python3", "-c", code, options=["--cpus", "1"]).stdout.strip() == "1"


def test_sigterm_ends_training_with_checkpoint_and_model_and_a_second_container_resumes(
    image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 5000}, channels)
    (base / "checkpoints").mkdir()
    mount = ["-v", f"{base}:/opt/ml", "--network", "none"]
    with running(image, "train", options=mount) as container:
        container.wait_for(r"Epoch\[1\] Validation-accuracy=")
        assert container.stop(120) == 0, container.log()
    assert read_artifact(base / "model").labels.names == ("blue", "green", "red")
    epochs = [int(path.stem.split("-")[1]) for path in (base / "checkpoints").glob("*.json")]
    assert epochs
    hyperparameters = base / "input" / "config" / "hyperparameters.json"
    content = json.loads(hyperparameters.read_text()) | {"epochs": str(max(epochs) + 2)}
    hyperparameters.write_text(json.dumps(content))
    done = run(image, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    # after the whole epoch of the newest checkpoint, or within it
    assert re.search(rf"Resumed (in|after) epoch {max(epochs) + 1}\b", done.stdout)
    assert "Epoch[0] " not in done.stdout


def test_two_containers_train_one_model(
    image: str, write_class_folders: ClassFolders, tmp_path: Path
) -> None:
    if image.endswith(ONE_HOST):
        pytest.skip(f"the backend of {image} trains on one host")
    channels = {
        "train": write_class_folders(tmp_path / "train", per_class=11),
        "validation": write_class_folders(tmp_path / "validation", per_class=5, seed=1),
    }
    hosts = ["algo-1", "algo-2"]
    network = f"image-classification-test-{os.getpid()}"
    assert docker("network", "create", "--internal", network).returncode == 0
    try:
        options = {}
        for host in hosts:
            base = write_job(tmp_path / host, HYPERPARAMETERS | {"epochs": 8}, channels)
            resources = {"current_host": host, "hosts": hosts, "network_interface_name": "ethwe"}
            (base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(resources))
            options[host] = ["--network", network, "--network-alias", host, "-v", f"{base}:/opt/ml"]
        with (
            running(image, "train", options=options["algo-1"]) as first,
            running(image, "train", options=options["algo-2"]) as second,
        ):
            codes = (first.exit_code(), second.exit_code())
            assert codes == (0, 0), first.log() + second.log()
            assert "Validation-accuracy" in first.log()
            assert "Validation-accuracy" not in second.log()
    finally:
        docker("network", "rm", network)
    artifact = read_artifact(tmp_path / "algo-1" / "model")
    assert artifact.manifest["metrics"]["validation"]["accuracy"] > 0.9
    assert not list((tmp_path / "algo-2" / "model").iterdir())


def test_the_train_image_also_serves_what_it_trained(image: str, trained: Path) -> None:
    photo = next((trained / "input" / "data" / "validation" / "green").iterdir())
    with serving(image, trained / "model") as server:
        answer = server.invoke(
            photo.read_bytes(), Content_Type="image/jpeg", Accept="application/json;verbose"
        ).json()
    assert answer["predicted_label"] == "green"  # type: ignore[index]


def test_pipe_mode_reads_one_fifo_per_epoch_from_a_mounted_volume(
    image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    base = pipe_job(tmp_path / "ml", channels, epochs=3, passes=3)
    done = run(image, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    measured = read_artifact(base / "model").manifest["metrics"]
    assert (measured["training_samples"], measured["validation_samples"]) == (36, 15)
    assert measured["validation"]["accuracy"] > 0.6


def test_an_augmented_manifest_next_to_its_images_is_a_channel(
    image: str, channels: dict[str, Path], tmp_path: Path
) -> None:
    names = ("blue", "green", "red")
    given = HYPERPARAMETERS | {"epochs": 2, "labels": ",".join(names), "num_classes": 3}
    base = write_job(tmp_path / "ml", given, channels)
    for channel in channels:
        folder = base / "input" / "data" / channel
        lines = []
        for path in sorted(folder.glob("*/*.jpg")):
            path.rename(folder / path.name)
            row = {"source-ref": f"s3://bucket/{path.name}", "class": names.index(path.parent.name)}
            lines.append(json.dumps(row))
        for name in names:
            (folder / name).rmdir()
        (folder / f"{channel}.manifest").write_text("\n".join(lines) + "\n")
    done = run(image, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_artifact(base / "model").labels.names == names


def test_compile_on_is_refused_by_name_because_an_image_has_no_compiler(
    channels: dict[str, Path], tmp_path: Path
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"compile": "on"}, channels)
    done = run(train_image("torch"), "train", volumes={base: "/opt/ml"})
    assert done.returncode == 2, done.stdout + done.stderr
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith("ClientError: compile=on: this image cannot compile")
    assert "set compile=off" in failure
