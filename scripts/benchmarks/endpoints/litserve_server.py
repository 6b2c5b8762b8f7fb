"""LitServe with one worker per CPU: `litserve_server.py PORT WORKERS`."""

import sys
from typing import Annotated

import litserve
import predictor
from fastapi import Body

Image = Annotated[bytes, Body(media_type="image/jpeg")]


class Api(litserve.LitAPI):
    def setup(self, _: str) -> None:
        self.model = predictor.load()

    def decode_request(self, request: Image) -> bytes:
        return request

    def predict(self, data: bytes) -> list[float]:
        return self.model(data)

    def encode_response(self, probabilities: list[float]) -> dict[str, list[float]]:
        return {"probabilities": probabilities}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(api_path="/invocations"), accelerator="cpu", workers_per_device=int(sys.argv[2])
    )
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False)
