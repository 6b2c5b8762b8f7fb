"""LitServe with one worker for each CPU: `litserve_server.py PORT WORKERS`."""

from __future__ import annotations

import sys

import litserve
import predictor
from fastapi import Request


class Api(litserve.LitAPI):
    """One image in, probabilities out."""

    def setup(self, device: str) -> None:
        """Load the model in a worker."""
        self.model = predictor.load()

    async def decode_request(self, request: Request) -> bytes:
        """The body is the image."""
        return await request.body()

    def predict(self, data: bytes) -> list[float]:
        """The probabilities."""
        return self.model(data)

    def encode_response(self, probabilities: list[float]) -> dict[str, list[float]]:
        """The answer."""
        return {"probabilities": probabilities}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(api_path="/invocations"), accelerator="cpu", workers_per_device=int(sys.argv[2])
    )
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False)
