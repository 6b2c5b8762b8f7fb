"""The handler for TorchServe and multi-model-server: both call `handle` with a batch of one."""

from __future__ import annotations

import json

import predictor

_predict = None


def handle(data: list[dict[str, bytes]] | None, _: object) -> list[str] | None:
    """Load the model at the first call; return the responses of a batch."""
    global _predict
    _predict = _predict or predictor.load()
    if data is None:
        return None
    return [json.dumps(_predict(bytes(row.get("body") or row.get("data")))) for row in data]
