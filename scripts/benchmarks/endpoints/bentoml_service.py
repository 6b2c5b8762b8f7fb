"""BentoML with one worker per CPU."""

import os
from pathlib import Path
from typing import Annotated

import bentoml
import predictor

Jpeg = Annotated[Path, bentoml.validators.ContentType("image/jpeg")]


@bentoml.service(workers=int(os.environ["BENCHMARK_CPUS"]), traffic={"timeout": 60})
class Classifier:
    def __init__(self) -> None:
        self.model = predictor.load()

    @bentoml.api(route="/invocations")
    def predict(self, image: Jpeg, /) -> list[float]:
        return self.model(image.read_bytes())
