"""Several hosts of which each has training samples of its own (ShardedByS3Key).

A host shuffles and reads its own part. All take as many steps as the host with most samples; the
others fill up with padding of weight 0. What is said of the training data is of all parts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np

from image_classification.errors import UserError
from image_classification.training.inputs import Inputs, WholeTraining, class_counts
from image_classification.training.process_group import ProcessGroup
from image_classification.training.settings import Settings


def agreed(inputs: Inputs, settings: Settings, group: ProcessGroup, *, is_part: bool) -> Inputs:
    """The inputs that all hosts agree on; of a host that has a part, with what is known of all.

    Every rank must call this, and all of them raise, so that none waits for the others.

    Raises:
        UserError: the hosts have other classes, or would prepare images otherwise.
    """
    if group.world.size == 1:
        return inputs
    _check_agreement(inputs, settings, group)
    return _with_all_parts(inputs, group) if is_part else inputs


def _check_agreement(inputs: Inputs, settings: Settings, group: ProcessGroup) -> None:
    names, preprocessing = list(inputs.labels.names), settings.preprocessing.to_json()
    content = json.dumps([names, preprocessing, settings.multi_label]).encode()
    fingerprint = int.from_bytes(hashlib.sha256(content).digest()[:6], "big")  # exact as float64
    if len(set(group.gathered(fingerprint))) > 1:
        raise UserError(
            f"the hosts of this job do not agree on the classes or on how images are prepared: "
            f"this one has {len(names)} classes, {', '.join(names[:20])}, and resize="
            f"{settings.preprocessing.resize}; give every host the same channels, or with "
            "ShardedByS3Key name the classes by the hyperparameter labels, and set resize"
        )


def _with_all_parts(inputs: Inputs, group: ProcessGroup) -> Inputs:
    own = inputs.training
    sizes = group.gathered(len(own))
    counts = group.engine.all_reduce(class_counts(own, len(inputs.labels)).astype(np.float64))
    whole = WholeTraining(int(sum(sizes)), int(max(sizes)), counts.astype(np.int64))
    return replace(inputs, whole=whole)


def own_seed(seed: int, rank: int) -> int:
    """A seed for the order of a host's own part, so that hosts do not draw alike."""
    return int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
