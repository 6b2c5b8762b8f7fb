"""Measure `check --label-errors`: flip some labels of a clean set, and count how many it finds.

The features are computed once, as the command does; every round flips other labels. A label falls
on any other class alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from setting.machine import machine


def main() -> int:
    options = _options()
    import numpy as np  # not at the top: --help needs no package

    from image_classification.cli.label_errors import backbone_features
    from image_classification.contract.process import cpu_count
    from image_classification.prepare.check.subsets import find_subsets
    from image_classification.work import in_order

    features_of = backbone_features(options.backbone)
    subsets = find_subsets(options.data, options.list)
    places = [(subset, index) for subset in subsets for index in range(len(subset.keys))]
    start = time.process_time()
    rows = list(in_order(lambda p: features_of(p[0].read(p[1])), places, cpu_count()))
    seconds = time.process_time() - start
    classes, labels = np.unique([s.class_of(i) for s, i in places], return_inverse=True)
    features = np.stack(rows)

    clean = _judged(features, labels, len(classes))
    rounds = []
    for seed in range(options.rounds):
        generator = np.random.default_rng(seed)
        count = round(options.share * len(labels))
        wrong = generator.choice(len(labels), count, replace=False)
        flipped = labels.copy()
        flipped[wrong] += generator.integers(1, len(classes), count)
        flipped %= len(classes)
        scores = _judged(features, flipped, len(classes))[0]
        reviewed = np.argsort(-scores.scores, kind="stable")[: int(options.review * len(labels))]
        rounds.append(
            {
                "found": float(np.isin(wrong, reviewed).mean()),
                "listed": float(scores.is_suspicious[wrong].mean()),
                "list": float(scores.is_suspicious.mean()),
                "corrected": float((scores.suggested[wrong] == labels[wrong]).mean()),
            }
        )
    result = {
        "machine": machine(),
        "images": len(labels),
        "classes": len(classes),
        "backbone": options.backbone,
        "feature_cpu_ms": 1000 * seconds / len(labels),
        "kfold_accuracy": clean[1],
        "clean_list": float(clean[0].is_suspicious.mean()),
        "flipped_share": options.share,
        "reviewed_share": options.review,
        "rounds": options.rounds,
        **{name: float(np.mean([r[name] for r in rounds])) for name in rounds[0]},
        "found_least": min(r["found"] for r in rounds),
    }
    sys.stdout.write((json.dumps(result) if options.json else table(result)) + "\n")
    return 0


def _judged(features, labels, classes):  # type: ignore[no-untyped-def]
    """Return the scores, and the accuracy of the heads."""
    from image_classification.curation import fit_folds
    from image_classification.curation.label_issues import score_labels

    heads = fit_folds(features, labels, classes)
    scores = score_labels(heads.chunks(), labels, classes)
    return scores, scores.accuracy


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark label-errors", description=__doc__)
    parser.add_argument("data", type=Path, help="class folders whose labels are right")
    parser.add_argument("--list", type=Path, help="list of the images")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="whose features")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels to flip")
    parser.add_argument("--review", type=float, default=0.15, help="share of images to look at")
    parser.add_argument("--rounds", type=int, default=10, help="each flips other labels")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser.parse_args()


def table(result: dict[str, object]) -> str:
    """Return the result as text."""
    shares = {
        f"of {result['reviewed_share']:.0%} reviewed images, wrong labels found": "found",
        "  in the round that finds the fewest": "found_least",
        "wrong labels in the list": "listed",
        "right class suggested": "corrected",
        "images in the list": "list",
        "images in the list without flipped labels": "clean_list",
        "k-fold accuracy without flipped labels": "kfold_accuracy",
    }
    head = (
        f"{result['images']} images, {result['classes']} classes, {result['backbone']}: "
        f"{result['feature_cpu_ms']:.1f} CPU-ms per image; {result['flipped_share']:.0%} of the "
        f"labels flipped, {result['rounds']} rounds"
    )
    lines = [f"{text:60}{result[name]:8.1%}" for text, name in shares.items()]
    return "\n".join([str(result["machine"]), head, "", *lines])


if __name__ == "__main__":
    sys.exit(main())
