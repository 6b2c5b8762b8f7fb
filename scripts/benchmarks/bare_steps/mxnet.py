"""The usual loop in Gluon: a hybridized network, autograd, a Trainer."""

from __future__ import annotations

from collections.abc import Callable

import mxnet as mx
from mxnet import autograd, gluon

from image_classification.backends.base import ModelSpec
from image_classification.backends.mxnet import model
from image_classification.backends.state import initial_tensor
from image_classification.samples import Batch


def build(spec: ModelSpec, batch: Batch, rate: float, momentum: float) -> Callable[[], float]:
    """Return a step on the same batch each time; it returns the loss."""
    graph = model.build(spec)
    network = gluon.SymbolBlock(graph.features, [mx.sym.var(model.IMAGES)])
    first = {name: initial_tensor(name, shape, 0) for name, shape in graph.shapes.items()}
    for name, values in {**first, **graph.constants}.items():
        parameter = network.params[name]
        if name in graph.constants:
            parameter.grad_req = "null"
        parameter.shape = values.shape
        parameter.initialize(mx.init.Zero())
        parameter.set_data(mx.nd.array(values))
    head = gluon.nn.Dense(spec.classes, in_units=graph.width)
    head.initialize()
    for part in (network, head):
        part.hybridize(static_alloc=True)
    parameters = {**network.collect_params(), **head.collect_params()}
    settings = {"learning_rate": rate, "momentum": momentum}
    trainer = gluon.Trainer(parameters, "sgd", settings)
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=False)

    def step() -> float:
        images, targets = mx.nd.array(batch.images, dtype="uint8"), mx.nd.array(batch.targets)
        with autograd.record():
            loss = loss_of(head(network(images)), targets)
        loss.backward()
        trainer.step(len(batch.images))
        return float(loss.mean().asscalar())

    return step


def finish() -> None:
    """Wait for MXNet's background work: it knows a loss before the gradients."""
    mx.nd.waitall()
