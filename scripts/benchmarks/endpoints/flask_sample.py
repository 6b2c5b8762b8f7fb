"""The usual bring-your-own-container sample: Flask, one model per gunicorn worker."""

from __future__ import annotations

import flask
import predictor

app = flask.Flask(__name__)
predict = None


@app.get("/ping")
def ping() -> flask.Response:
    global predict
    predict = predict or predictor.load()
    return flask.Response(status=200)


@app.post("/invocations")
def invocations() -> flask.Response:
    global predict
    predict = predict or predictor.load()
    return flask.jsonify(predict(flask.request.data))
