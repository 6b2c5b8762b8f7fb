"""The hyperparameters that say what a label is: names, several labels an image, binary metrics.

In: an interface's typed hyperparameters. Out: neutral values, or what cannot go together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from image_classification.data.labels import LabelMap
from image_classification.errors import DataError, HyperparameterError


def labels_of(text: str | None) -> tuple[str, ...] | None:
    """The class names in index order that the user gives, or None."""
    if not text:
        return None
    try:
        return LabelMap.parse(text).names
    except DataError as error:
        raise HyperparameterError(f"labels: {error}") from error


def binary_metric_of(v: Mapping[str, Any]) -> str | None:
    """The metric that stands for accuracy in `binary_mode`, or None."""
    metric = v.get("eval_metric", "accuracy")
    if metric == "accuracy":
        return None
    if not v["binary_mode"]:
        raise HyperparameterError(
            f"eval_metric={metric} needs binary_mode=True, which needs two classes: set it, or "
            "leave eval_metric at accuracy"
        )
    return str(metric)


def is_multi_label_job(v: Mapping[str, Any]) -> bool:
    """Whether an image may have several classes; the TensorFlow built-in has single labels only.

    Raises:
        HyperparameterError: with what has no meaning then.
    """
    is_multi_label = bool(v.get("multi_label"))
    if v.get("use_weighted_loss") and not is_multi_label:
        raise HyperparameterError("use_weighted_loss=1 acts with multi_label=1 only: set both")
    if is_multi_label and v["label_smoothing"]:
        raise HyperparameterError(
            f"label_smoothing={v['label_smoothing']} with multi_label=1: labels are not "
            "exclusive, so nothing is shared out among them; leave label_smoothing out"
        )
    if is_multi_label and v["top_k"]:
        raise HyperparameterError(
            f"top_k={v['top_k']} with multi_label=1: several labels have no rank among k; "
            "leave top_k out"
        )
    recipe = {name: v[name] for name in ("class_weights", "balanced_sampling") if v[name]}
    if is_multi_label and recipe:
        given = " and ".join(f"{name}={value}" for name, value in recipe.items())
        raise HyperparameterError(
            f"{given} with multi_label=1: an image of several classes has no one class to weigh or "
            "to be drawn by; use use_weighted_loss=1 instead"
        )
    return is_multi_label
