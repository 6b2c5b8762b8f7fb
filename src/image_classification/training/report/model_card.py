"""The model card: what the model is, what it was measured on, what it does not know."""

from __future__ import annotations

from image_classification.training.evaluation import per_class
from image_classification.training.report import Facts
from image_classification.training.report.page import metric_title, percent

_MOST_CLASSES = 200


def model_card(facts: Facts) -> str:
    """Markdown, with YAML front matter in the form that model hubs read."""
    about = facts.description
    parts = [
        ["---", "pipeline_tag: image-classification", "library_name: onnx", "---"],
        [
            f"# {about['backbone']} for {len(facts.labels)} classes",
            "",
            f"Trained {about['created']} with sagemaker-image-classification "
            f"{about['versions']['sagemaker-image-classification']}, backend {about['backend']}.",
        ],
        ["## What it is", "", *_model(facts)],
        ["## What it is for", "", *_use(facts)],
        ["## What it learned from", "", *_training(facts)],
        ["## How good it is", "", *_metrics(facts)],
        ["## What to beware of", "", *_limits(facts)],
        ["## Classes", "", *_classes(facts)],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _model(facts: Facts) -> list[str]:
    about, preprocessing = facts.description, facts.preprocessing
    size = "×".join(str(preprocessing[name]) for name in ("channels", "height", "width"))
    resize = f" of the shorter side resized to {preprocessing['resize']}"
    how = {"crop": "center crop", "squash": "both sides resized"}[preprocessing["mode"]]
    sums = "each on its own" if facts.is_multi_label else "adding to 1"
    how += resize if preprocessing["resize"] else ""
    return [
        f"- **Network:** {about['backbone']}, started from {about['started_from']}.",
        f"- **Input:** one JPEG or PNG, prepared to {size} (channels×height×width): {how}. "
        "`preprocessing.json` says the rest; the server does it.",
        f"- **Output:** one probability per class, {sums}, in the order of `labels.json`.",
        f"- **Files:** `model.onnx` and `weights.safetensors` are of epoch "
        f"{facts.history.best_epoch + 1}, the best one.",
    ]


def _use(facts: Facts) -> list[str]:
    names = ", ".join(facts.labels.names[:20]) + (", …" if len(facts.labels) > 20 else "")
    return [
        f"To tell apart images like those it was trained on: {names}.",
        "",
        "```",
        "image-classification predict --model DIR photo.jpg",
        "image-classification serve --model DIR",
        "```",
    ]


def _training(facts: Facts) -> list[str]:
    measured, given = facts.description["metrics"], facts.hyperparameters
    chosen = ", ".join(f"`{name}={value}`" for name, value, origin in given if origin != "default")
    lines = [
        f"- **Data:** {measured['training_samples']} training and "
        f"{measured['validation_samples']} validation images"
        + (f", {measured['test_samples']} test images" if "test_samples" in measured else "")
        + f"; {len(facts.bad_samples)} could not be read.",
        f"- **Epochs:** {measured['epochs']}, in "
        f"{sum(record.seconds for record in facts.history.epochs) / 60:.1f} minutes.",
    ]
    return lines + ([f"- **Hyperparameters given:** {chosen}."] if chosen else [])


def _metrics(facts: Facts) -> list[str]:
    measured = facts.description["metrics"]
    splits = [name for name in ("validation", "test") if name in measured]
    titles = " | ".join(name.capitalize() for name in splits)
    lines = [f"| | {titles} |", "|---" * (len(splits) + 1) + "|"]
    for name in measured["validation"]:
        values = " | ".join(f"{measured[split][name]:.4f}" for split in splits)
        lines.append(f"| {metric_title(name)} | {values} |")
    found = facts.calibration
    return [
        *lines,
        "",
        f"Validation chose epoch {measured['best_epoch']} of {measured['epochs']}, so its figures "
        "are slightly optimistic. " + found.line().replace("->", "→") + ".",
    ]


def _limits(facts: Facts) -> list[str]:
    counts, names = facts.class_counts.get("train"), facts.labels.names
    rarest = []
    if counts:  # a stream is not counted
        smallest = min(range(len(names)), key=lambda index: counts[index])
        rarest = [f"- It saw {counts[smallest]} images of its rarest class, {names[smallest]}."]
    always = "- It always names one of its classes, also for an image of none of them."
    return [
        *([] if facts.is_multi_label else [always]),
        "- It is measured on images of the same collection; other cameras, light or places may be "
        "harder. Measure it on your own: `image-classification evaluate`.",
        *rarest,
        "- Whether it treats groups of people alike was not measured.",
    ]


def _classes(facts: Facts) -> list[str]:
    rows = per_class(facts.outcomes, facts.labels.names)
    lines = ["| Class | Validation images | Recall | Precision |", "|---|---|---|---|"]
    lines += [
        f"| {row['label']} | {row['samples']} | {percent(row['recall'])} | "
        f"{percent(row['precision'])} |"
        for row in rows[:_MOST_CLASSES]
    ]
    if len(rows) > _MOST_CLASSES:
        lines += ["", f"… and {len(rows) - _MOST_CLASSES} more: see `report.html`."]
    return lines
