"""The bring-your-own-container sample as people copy it: Flask, a model in each gunicorn worker."""

from __future__ import annotations

import flask
import predictor

app = flask.Flask(__name__)
predict = None


@app.get("/ping")
def ping() -> flask.Response:
    """Whether the model is there."""
    global predict
    predict = predict or predictor.load()
    return flask.Response(status=200)


@app.post("/invocations")
def invocations() -> flask.Response:
    """One image."""
    global predict
    predict = predict or predictor.load()
    return flask.jsonify(predict(flask.request.data))
