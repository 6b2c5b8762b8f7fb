"""The table of SageMaker's GPU machines agrees with SageMaker's model, the locks and the rules."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from image_classification.contract import gpus
from image_classification.contract.gpus import Family, Image
from tests.conftest import REPOSITORY

LOCKS = REPOSITORY / "containers" / "locks"
PAGE = (REPOSITORY / "docs" / "gpus.md").read_text("utf-8")
IMAGES = (*gpus.TRAIN_IMAGES, *gpus.SERVE_IMAGES)
FAMILIES = {family.name: family for family in gpus.FAMILIES}
SHAPES = {
    gpus.TRAINING: "TrainingInstanceType",
    gpus.PROCESSING: "ProcessingInstanceType",
    gpus.ENDPOINT: "ProductionVariantInstanceType",
    gpus.TRANSFORM: "TransformInstanceType",
}
NEEDED = {11: 450, 12: 525, 13: 580}  # NVIDIA's first driver for a major version of CUDA


@pytest.fixture(scope="module")
def model() -> Any:
    """SageMaker's service model."""
    pytest.importorskip("botocore", reason="botocore is not installed")
    import botocore.session

    return botocore.session.get_session().get_service_model("sagemaker")


@pytest.mark.parametrize("job", SHAPES)
def test_the_instance_types_are_all_gpu_types_of_sagemakers_model(model: Any, job: str) -> None:
    left_out = tuple(f"ml.{name}." for name in gpus.LEFT_OUT)
    types = model.shape_for(SHAPES[job]).enum
    with_gpu = {name for name in types if re.match(r"ml\.[gp]\d", name)}
    listed = [name for family in gpus.FAMILIES for name in family.types(job)]
    assert sorted(listed) == sorted(n for n in with_gpu if not n.startswith(left_out))


def test_the_amis_of_endpoints_and_their_drivers_are_those_of_sagemakers_model(model: Any) -> None:
    names = model.shape_for("ProductionVariantInferenceAmiVersion").enum
    assert [ami.name for ami in gpus.INFERENCE_AMIS] == [n for n in names if "-gpu-" in n]
    said = stated_drivers(model.shape_for("ProductionVariant").members["InferenceAmiVersion"])
    found = {ami.name: (ami.driver, ami.cuda) for ami in gpus.INFERENCE_AMIS}
    assert found == {name: row for name, row in said.items() if "-gpu-" in name}


def test_the_amis_of_batch_transform_are_those_of_sagemakers_model(model: Any) -> None:
    # The shape of TransformAmiVersion is a pattern; its documentation has the names.
    shape = model.shape_for("TransformResources").members["TransformAmiVersion"]
    said = {name: driver for name, (driver, _) in stated_drivers(shape).items()}
    assert {ami.name: ami.driver for ami in gpus.TRANSFORM_AMIS} == said


def stated_drivers(shape: Any) -> dict[str, tuple[int, str]]:
    """Name of an AMI → the driver and the CUDA version that the documentation states."""
    text = re.sub(r"\s*<[^>]+>\s*", "\n", shape.documentation)
    found = {}
    for name, rest in re.findall(r"(?m)^(al\S*-ami-\S+)$((?:\n(?!al\S*-ami-).*)*)", text):
        driver = re.search(r"NVIDIA driver version: (\d+)", rest)
        cuda = re.search(r"CUDA version: ([\d.]+)", rest)
        if driver:
            found[name] = (int(driver.group(1)), cuda.group(1) if cuda else "")
    return found


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_an_image_of_the_table_has_the_version_that_its_lock_pins(image: Image) -> None:
    lock = (LOCKS / f"{image.name}.txt").read_text("utf-8")
    pinned = re.search(rf"(?m)^{image.library}==(\S+)", lock)
    assert pinned and pinned.group(1) == image.version, (
        f"{image.name}.txt has another {image.library} than contract/gpus.py: read the compute "
        "capabilities of the new wheel, and renew the row"
    )
    assert image.name.endswith(f"-cu{image.cuda}")


def test_every_lock_of_a_cuda_image_has_its_row() -> None:
    found = {path.stem for path in LOCKS.glob("*-cu1[0-9].txt")}
    assert found == {image.name for image in IMAGES}


@pytest.mark.parametrize("train", ["train-torch-cu13", "train-tensorflow-cu12"])
def test_an_image_for_training_has_the_onnx_runtime_of_the_serving_image(train: str) -> None:
    (serve,) = (i for i in gpus.SERVE_IMAGES if i.name[-5:] == train[-5:])
    assert f"\nonnxruntime-gpu=={serve.version} " in (LOCKS / f"{train}.txt").read_text("utf-8")


def test_the_codes_of_torch_are_those_that_torch_states() -> None:
    spec = importlib.util.find_spec("torch")
    (image,) = (image for image in IMAGES if image.library == "torch")
    if spec is None or version("torch").partition("+")[0] != image.version:
        pytest.skip(f"torch {image.version} is not installed")
    source = Path(str(spec.origin)).parent.joinpath("cuda", "__init__.py").read_text("utf-8")
    (table,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and node.value
        if ast.unparse(node.target) == "PYTORCH_RELEASES_CODE_CC"
    )
    assert set(image.codes) == table["13.0"]["x86_64"]


PAIRS = list(itertools.product(IMAGES, gpus.FAMILIES))


@pytest.mark.parametrize(("image", "family"), PAIRS, ids=lambda row: row.name)
def test_an_image_works_only_with_code_for_the_gpu_and_a_driver_for_its_cuda(
    image: Image, family: Family
) -> None:
    assert image.driver == NEEDED[image.cuda]
    for driver in (470, 535, 550, 580):
        if not image.works(family.capability, driver):
            continue
        assert driver >= NEEDED[image.cuda]
        codes = {*image.codes, image.ptx}
        assert any(c // 10 == family.capability // 10 and c <= family.capability for c in codes)


@pytest.mark.parametrize(
    ("image", "family", "driver", "works"),
    [
        ("serve-cu12", "g4dn", 470, False),  # the default of endpoints
        ("serve-cu12", "g4dn", 535, True),
        ("serve-cu12", "p3", 535, True),
        ("serve-cu12", "g7e", 580, False),  # Blackwell
        ("serve-cu13", "g5", 550, False),
        ("serve-cu13", "g5", 580, True),
        ("serve-cu13", "p3", 580, False),  # Volta
        ("serve-cu13", "p6-b200", 580, False),  # neither 10.0 nor PTX
        ("train-torch-cu13", "p3", 580, False),
        ("train-torch-cu13", "p6-b300", 580, True),  # 10.0 runs on 10.3
        ("train-tensorflow-cu12", "p5", 550, False),  # only PTX, of CUDA 12.5
        ("train-tensorflow-cu12", "p5", 580, True),
        ("train-mxnet-cu11", "g5", 470, True),
        ("train-mxnet-cu11", "g6", 580, False),  # CUDA 11.7 does not know Ada
    ],
)
def test_a_known_combination_has_its_known_answer(
    image: str, family: str, driver: int, works: bool
) -> None:
    (row,) = (row for row in IMAGES if row.name == image)
    assert row.works(FAMILIES[family].capability, driver) is works


def test_every_fact_names_a_source_and_every_family_of_an_ami_exists() -> None:
    for ami in (*gpus.INFERENCE_AMIS, *gpus.TRANSFORM_AMIS):
        assert set(ami.sources) <= set(gpus.SOURCES) and "model" in ami.sources
        assert set(ami.families) <= set(FAMILIES)


@pytest.mark.parametrize("image", gpus.SERVE_IMAGES, ids=lambda image: image.name)
def test_the_advised_amis_have_the_driver_of_the_image(image: Image) -> None:
    inference, transform = gpus.ADVISED[image.cuda]
    drivers = {ami.name: ami.driver for ami in (*gpus.INFERENCE_AMIS, *gpus.TRANSFORM_AMIS)}
    assert drivers[inference] >= image.driver
    if transform is None:
        assert all(ami.driver < image.driver for ami in gpus.TRANSFORM_AMIS)
    else:
        assert drivers[transform] >= image.driver


@pytest.mark.parametrize(
    ("uri", "cuda"),
    [
        ("1.dkr.ecr.eu-west-1.amazonaws.com/image-classification-serve:0.1.0-cu12", 12),
        ("host:5000/folder/image-classification-train:0.1.0-torch-cu13", 13),
        ("image-classification-train:0.1.0-torch-cuda", 13),
        ("image-classification-train:0.1.0-tensorflow-cuda", 12),
        ("image-classification-serve:0.1.0-cuda", 12),
        ("image-classification-serve:0.1.0-cu12@sha256:00", 12),
        ("image-classification-serve:0.1.0", 0),
        ("host-cu12:5000/image-cu12", 0),
    ],
)
def test_the_end_of_a_tag_tells_the_cuda_version(uri: str, cuda: int) -> None:
    assert gpus.cuda_of(uri) == cuda


def rows(section: str) -> list[list[str]]:
    """The cells of the table in a section of the page."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `ml.")]
    return [line.strip("| ").split(" | ") for line in lines]


@pytest.mark.parametrize(
    ("section", "job"), [("Endpoints", "endpoint"), ("Batch transform", "transform")]
)
def test_the_page_says_that_an_image_works_only_where_it_does(section: str, job: str) -> None:
    table = rows(section)
    assert len(table) >= 5
    images = {image.name: image for image in gpus.SERVE_IMAGES}
    for name, default, *cells in table:
        family = FAMILIES[name.strip("`").removeprefix("ml.")]
        if job in family.drivers:
            cells.append(default.partition(": ")[2])
        drivers = [*(ami.driver for ami in gpus.AMIS[job]), family.drivers.get(job, 0)]
        for cell, driver in zip(cells, drivers, strict=False):
            for image, compat in re.findall(r"`(serve-cu\d\d)`( with cuda-compat)?", cell):
                assert images[image].works(family.capability, driver) is not bool(compat)
                assert images[image].computes_on(family.capability)
                assert driver >= gpus.COMPAT_DRIVERS[images[image].cuda]


def test_the_page_lists_no_family_that_cannot_work() -> None:
    listed = {row[0].strip("`").removeprefix("ml.") for row in rows("Endpoints")}
    assert listed.isdisjoint({*gpus.LEFT_OUT, "p6-b200", "p6-b300"})
    assert all("`train-" in cells[-1] for cells in rows("Training and processing"))


def test_every_page_and_the_notebook_name_only_amis_of_the_table() -> None:
    known = {ami.name for ami in (*gpus.INFERENCE_AMIS, *gpus.TRANSFORM_AMIS)}
    pages = [*REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("notebooks/*.ipynb")]
    named = {
        page.name: set(re.findall(r"\bal2\w*-ami-sagemaker-[\w-]+\w", page.read_text("utf-8")))
        for page in pages
    }
    assert {name for names in named.values() for name in names} <= known
    assert gpus.ADVISED[12][0] in named["sagemaker.ipynb"]
    assert gpus.ADVISED[13][0] in named["sagemaker.ipynb"]
