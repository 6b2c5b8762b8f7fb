"""The report and the model card of a job, and the report of an evaluation.

In: `Results` or `Outcomes`, and the manifest's description of the job. Out: text, made from the
templates `pages/report.html`, `pages/model-card.md` and `pages/evaluation.html`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from image_classification.images.preprocessing import Preprocessing
from image_classification.pages import charts, render
from image_classification.samples import IMBALANCED
from image_classification.training.calibration import calibration_error, reliability
from image_classification.training.checkpoint import EpochRecord
from image_classification.training.evaluation import Outcomes, per_class, tallies
from image_classification.training.report.sections import (
    BARS,
    PictureOf,
    pictures_of,
    quality_of,
)
from image_classification.training.results import MOST_SUSPECTS, Results

_MOST_NAMED = 10  # classes in a remark
_MOST_BAD = 200  # unusable images in the report
_MOST_EPOCHS = 1000  # rows
_MOST_CLASSES = 200  # in the model card


def report_page(results: Results, about: Mapping[str, Any]) -> str:
    """Return the report as HTML; `about` is the manifest's description of the job."""
    names, history = results.inputs.labels.names, results.history.epochs
    validation = results.validation
    before, after = results.reliability
    is_calibrated = not results.calibration.reason
    picture = pictures_of(results.inputs.validation, validation.keys)
    best = results.history.best_epoch + 1
    return render(
        "report.html",
        **_shared(results, about),
        title=f"{about['backbone']}, {len(names)} classes",
        quality=quality_of(
            *(validation, names, picture),
            {"As trained": before, "As served": after} if is_calibrated else {"As served": after},
            has_cells=not results.is_stopped,
        ),
        figures=_figures(results, about["metrics"]),
        line_charts=[
            *(_line_chart(name, history, best) for name in history[0].train),
            charts.line_chart(
                "Learning rate", {"rate": [record.learning_rate for record in history]}
            ),
        ],
        epochs=[_epoch_row(record) for record in history[:_MOST_EPOCHS]],
        augmented=results.augmented,
        most_suspects=MOST_SUSPECTS,
        review=results.label_review,
        splits=[
            (split, sum(counts), sum(count > 0 for count in counts), min(counts), max(counts))
            for split, counts in results.inputs.class_counts.items()
        ],
        remarks=_remarks(names, results.inputs.class_counts),
        class_bars=charts.class_bars(names, results.inputs.class_counts),
        bad_samples=list(results.bad_samples.reasons.items()),
        most_bad=_MOST_BAD,
        given=[
            (_with_origin(name, origin), value)
            for name, value, origin in results.hyperparameters
            if origin != "default"
        ],
        defaults=[row[:2] for row in results.hyperparameters if row[2] == "default"],
        effective_values=json.dumps(about["hyperparameters"], indent=1, ensure_ascii=False),
    )


def evaluation_page(
    outcomes: Outcomes,
    names: Sequence[str],
    picture: PictureOf,
    *,
    data: str,
    model: str,
    about: Mapping[str, Any],
    metrics: Mapping[str, float],
    skipped: Mapping[str, str],
) -> str:
    """Return the report of an evaluation as HTML.

    Args:
        outcomes, names, picture: of the samples, see `quality_of`.
        data, model: where both are.
        about: the model's manifest.
        metrics: name → value.
        skipped: key → reason, of the images that could not be used.
    """
    error = calibration_error(outcomes)
    figures = [
        (f"{value:.4f}" if name == "loss" else percent(value), metric_title(name).lower())
        for name, value in metrics.items()
        if name != "accuracy"
    ]
    counts = tallies(outcomes, len(names))[0].tolist()
    folder = data.rstrip("/").rpartition("/")[2]
    return render(
        "evaluation.html",
        title=f"{about.get('backbone', 'model')} on {folder or data}",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        data=data,
        model=model,
        quality=quality_of(outcomes, names, picture, {"As served": reliability(outcomes, BARS)}),
        calibration_line=f"Expected calibration error {error:.4f} on {len(outcomes.keys)} images",
        figures=[
            *figures,
            (f"{error:.4f}", "expected calibration error"),
            (f"{len(names):,}", "classes"),
            (f"{len(skipped):,}", "images skipped"),
        ],
        class_bars=charts.class_bars(names, {"images": counts}),
        skipped=list(skipped.items()),
        facts=_model_facts(about, names),
        most_bad=_MOST_BAD,
        percent=percent,
        interval=interval_text,
    )


def _model_facts(about: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return what the manifest says about the model; an old one says less."""
    measured: Mapping[str, Any] = about.get("metrics") or {}
    validation: Mapping[str, Any] = measured.get("validation", {})
    facts = {
        "Network": about.get("backbone"),
        "Started from": about.get("started_from"),
        "Created": about.get("created"),
        "Job": about.get("job"),
        "Classes": len(names),
        "Training images": measured.get("training_samples"),
        "Best epoch": measured.get("best_epoch"),
        "Validation accuracy": percent(validation["accuracy"]) if "accuracy" in validation else "",
    }
    return [(name, str(value)) for name, value in facts.items() if value]


def model_card(results: Results, about: Mapping[str, Any], preprocessing: Preprocessing) -> str:
    """Return the model card: Markdown with YAML front matter in the form that model hubs read."""
    names, counts = results.inputs.labels.names, results.inputs.class_counts.get("train")
    seconds = sum(record.seconds for record in results.history.epochs)
    resize = {"crop": "center crop", "squash": "both sides resized"}[preprocessing.mode]
    if preprocessing.resize:
        resize += f" after resizing the shorter side to {preprocessing.resize}"
    size = (preprocessing.channels, preprocessing.height, preprocessing.width)
    text = render(
        "model-card.md",
        **_shared(results, about),
        size="×".join(map(str, size)),
        resize=resize,
        bad_samples=len(results.bad_samples.reasons),
        minutes=f"{seconds / 60:.1f}",
        given=[
            f"{name}={value}"
            for name, value, origin in results.hyperparameters
            if origin != "default"
        ],
        metric_splits=[name for name in ("validation", "test") if name in about["metrics"]],
        rarest=_rarest(names, counts or ()),
        classes=per_class(results.validation, names),
        most_classes=_MOST_CLASSES,
    )
    return text.strip() + "\n"


def _rarest(names: Sequence[str], counts: Sequence[int]) -> tuple[str, int] | None:
    """Return the class with the fewest images; None if all have as many, or are not counted."""
    if len(set(counts)) < 2:
        return None
    return min(zip(names, counts, strict=True), key=lambda pair: pair[1])


def _shared(results: Results, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "about": about,
        "measured": about["metrics"],
        "names": results.inputs.labels.names,
        "is_multi_label": results.is_multi_label,
        "calibration_line": results.calibration.line().replace("->", "→"),
        "percent": percent,
        "metric_title": metric_title,
        "interval": interval_text,
    }


def metric_title(name: str) -> str:
    """Return a metric's name for people: `top_k_accuracy_5` is "Top-5 accuracy"."""
    k = name.removeprefix("top_k_accuracy_")
    return name.replace("_", " ").capitalize() if k == name else f"Top-{k} accuracy"


def percent(share: object) -> str:
    """Return a share as a percentage, "–" if it is undefined."""
    return f"{100 * share:.1f}%" if isinstance(share, float) else "–"


def interval_text(interval: tuple[float, float] | None) -> str:
    """Return a 95% interval of a share, "" if there is none."""
    return f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}%" if interval else ""


def _figures(results: Results, measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (value, name) of the figures below the title."""
    epochs, test = results.history.epochs, measured.get("test")
    seconds = sum(record.seconds for record in epochs)
    rate = sum(record.images_per_second for record in epochs) / len(epochs)
    figures = [
        (f"{value:.4f}", f"validation {metric_title(name).lower()}")
        for name, value in measured["validation"].items()
        if name != "accuracy"
    ]
    if test is not None:
        samples = f"of {measured['test_samples']} test images correct"
        figures.insert(0, (percent(test["accuracy"]), samples))
    return [
        *figures,
        (f"{results.calibration.error_after:.4f}", "expected calibration error"),
        (f"{measured['best_epoch']} of {measured['epochs']}", "best epoch"),
        (f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s", "of training steps"),
        (f"{rate:.0f}", "images/s"),
    ]


def _line_chart(name: str, history: Sequence[EpochRecord], best: int) -> str:
    series = {
        "training": [record.train[name] for record in history],
        "validation": [record.validation[name] for record in history],
    }
    return charts.line_chart(metric_title(name), series, is_share=name != "loss", best=best)


def _epoch_row(record: EpochRecord) -> list[object]:
    return [
        record.epoch + 1,
        f"{record.train['loss']:.4f}",
        f"{record.validation['loss']:.4f}",
        f"{record.train['accuracy']:.4f}",
        f"{record.validation['accuracy']:.4f}",
        f"{record.learning_rate:.6f}",
        f"{record.images_per_second:.1f}",
        percent(record.wait_share),
        percent(record.outside_share),
    ]


def _remarks(names: Sequence[str], class_counts: Mapping[str, Sequence[int]]) -> list[str]:
    """Return one sentence for each problem of the data."""
    remarks = []
    for split, counts in class_counts.items():
        absent = [name for name, count in zip(names, counts, strict=True) if not count]
        if absent:
            more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
            remarks.append(f"{split} has no images of {', '.join(absent[:_MOST_NAMED])}{more}")
        present = [count for count in counts if count]
        if present and max(present) >= IMBALANCED * min(present):
            remarks.append(
                f"{split}: the largest class has {max(present)} images, the smallest "
                f"{min(present)}: the accuracy says little about the small classes"
            )
    return remarks


def _with_origin(name: str, origin: str) -> str:
    """Return a hyperparameter's name with the spelling or the preset that gave it."""
    if origin.startswith("preset "):
        return f"{name} ({origin})"
    return name if name == origin else f"{name} (given as {origin})"
