"""Measure what labels that `rank` chooses teach a model, against random ones.

A linear head on the features of a pretrained network is fitted on a few random labels. Then rounds
of further labels are chosen, by the code of the command or at random, and a new head is fitted
after each. Accuracy is that on images that no round can choose.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from setting.machine import machine


def main() -> int:
    options = _options()
    import numpy as np  # not at the top: --help needs no package

    from image_classification.cli.label_errors import backbone_features
    from image_classification.contract.process import cpu_count
    from image_classification.curation import components, fit_head, softmax
    from image_classification.curation.selection import Candidates, uncertainty
    from image_classification.prepare.check.subsets import find_subsets
    from image_classification.work import in_order

    features_of = backbone_features(options.backbone)
    places = [(s, i) for s in find_subsets(options.data) for i in range(len(s.keys))]
    features = np.stack(list(in_order(lambda p: features_of(p[0].read(p[1])), places, cpu_count())))
    classes, labels = np.unique([s.class_of(i) for s, i in places], return_inverse=True)
    rows = components(features)

    def head(labeled):  # type: ignore[no-untyped-def]
        weights = fit_head(rows[labeled], labels[labeled], len(classes))
        return softmax(rows @ weights[:-1] + weights[-1])

    def chosen(pool, labeled):  # type: ignore[no-untyped-def]
        probabilities = head(labeled)
        candidates: Candidates[int] = Candidates(options.round)
        for index in pool.tolist():
            candidates.add(index, uncertainty(probabilities[index]), features[index])
        return candidates.chosen()

    accuracy: dict[str, list[list[float]]] = {"chosen": [], "random": []}
    for seed in range(options.seeds):
        generator = np.random.default_rng(seed)
        drawn = generator.permutation(len(labels))
        unseen, pool = np.split(drawn, [round(options.unseen * len(labels))])
        start = np.concatenate(
            [pool[labels[pool] == c][: options.start] for c in range(len(classes))]
        )
        for kind, found in accuracy.items():
            labeled, line = start, []
            for _ in range(options.rounds + 1):
                answers = head(labeled)[unseen].argmax(axis=1)
                line.append(float((answers == labels[unseen]).mean()))
                rest = pool[~np.isin(pool, labeled)]
                more = chosen(rest, labeled) if kind == "chosen" else rest[: options.round]
                labeled = np.concatenate([labeled, more]).astype(np.int64)
            found.append(line)
    result = {
        "machine": machine(),
        "images": len(labels),
        "backbone": options.backbone,
        "seeds": options.seeds,
        "labels": [
            len(classes) * options.start + n * options.round for n in range(options.rounds + 1)
        ],
        **{kind: np.mean(found, axis=0).tolist() for kind, found in accuracy.items()},
    }
    sys.stdout.write((json.dumps(result) if options.json else table(result)) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark rank", description=__doc__)
    parser.add_argument("data", type=Path, help="class folders")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="whose features")
    parser.add_argument("--start", type=int, default=5, help="random labels per class")
    parser.add_argument("--round", type=int, default=25, help="labels of a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--unseen", type=float, default=0.3, help="share of images to measure on")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser.parse_args()


def table(result: dict[str, object]) -> str:
    """Return the result as text."""
    head = (
        f"{result['images']} images, {result['backbone']}, accuracy on unseen images, mean of "
        f"{result['seeds']} seeds"
    )
    lines = [str(result["machine"]), head, f"{'labels':10}{'chosen':>10}{'random':>10}"]
    columns = zip(result["labels"], result["chosen"], result["random"], strict=True)  # type: ignore[call-overload]
    lines += [f"{labels:<10}{chosen:10.1%}{random:10.1%}" for labels, chosen, random in columns]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
