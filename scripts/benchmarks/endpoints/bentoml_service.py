"""BentoML with one worker for each CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import bentoml
import predictor


@bentoml.service(workers=int(os.environ["BENCHMARK_CPUS"]), traffic={"timeout": 60})
class Classifier:
    """One image in, probabilities out."""

    def __init__(self) -> None:
        self.model = predictor.load()

    @bentoml.api(route="/invocations")
    def predict(self, image: Annotated[Path, bentoml.validators.ContentType("image/jpeg")]) -> list:
        """The probabilities."""
        return self.model(image.read_bytes())
