"""BentoML with one worker for each CPU."""

import os
from pathlib import Path
from typing import Annotated

import bentoml
import predictor

Jpeg = Annotated[Path, bentoml.validators.ContentType("image/jpeg")]


@bentoml.service(workers=int(os.environ["BENCHMARK_CPUS"]), traffic={"timeout": 60})
class Classifier:
    """One image in, probabilities out."""

    def __init__(self) -> None:
        self.model = predictor.load()

    @bentoml.api(route="/invocations")
    def predict(self, image: Jpeg, /) -> list[float]:
        """The probabilities."""
        return self.model(image.read_bytes())
