"""`make sbom`: the inventories of the built images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.registry.conftest import Run

SBOMS = REPOSITORY / "dist" / "sbom"


def validate(path: Path) -> None:
    """Validate against the JSON schema of the version in the file."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = path.read_text("utf-8")
    version = re.search(r'"specVersion": *"(\d+)\.(\d+)"', text)
    assert version, path
    error = JsonStrictValidator(SchemaVersion[f"V{version[1]}_{version[2]}"]).validate_str(text)
    assert error is None, f"{path}: {error}"


def test_the_sboms_of_both_images_are_valid_cyclonedx_and_list_their_packages(make: Run) -> None:
    shutil.rmtree(SBOMS, ignore_errors=True)
    result = make("sbom")
    assert result.returncode == 0, result.stderr
    counts = re.findall(r"^dist/sbom/(\S+): (\d+) components$", result.stdout, re.MULTILINE)
    assert len(counts) == 2
    expected = {"train": {"torch", "safetensors", "onnx"}, "serve": {"onnxruntime", "flask"}}
    for (folder, count), names in zip(counts, expected.values(), strict=True):
        components = []
        for path in sorted((SBOMS / folder).glob("*.cdx.json")):
            validate(path)
            components += json.loads(path.read_text("utf-8"))["components"]
        found = {component["name"].lower() for component in components}
        assert names | {"sagemaker-image-classification", "libc6"} <= found
        assert int(count) == len(components) > 100
        assert (SBOMS / folder / "python-licenses.txt").stat().st_size > 10_000
        assert (SBOMS / folder / "system-licenses" / "libc6.txt").exists()


def test_without_images_sbom_is_an_error(make: Run) -> None:
    result = make("sbom", VERSION="0.0.0-never-built")
    assert result.returncode != 0
    assert "ClientError: no image of VERSION=0.0.0-never-built" in result.stderr
