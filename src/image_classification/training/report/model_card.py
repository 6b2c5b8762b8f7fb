"""The model card: what the model is, what it was measured on, what it does not know."""

from __future__ import annotations

from image_classification.training.evaluation import per_class
from image_classification.training.report.facts import Facts


def model_card(facts: Facts) -> str:
    """Markdown, with YAML front matter in the form that model hubs read."""
    about, measured = facts.description, facts.description["metrics"]
    rows = [
        f"| {row['label']} | {row['samples']} | {_percent(row['recall'])} | "
        f"{_percent(row['precision'])} |"
        for row in per_class(facts.outcomes, facts.labels.names)
    ]
    size = "×".join(str(facts.preprocessing[name]) for name in ("channels", "height", "width"))
    return "\n".join(
        [
            "---",
            "pipeline_tag: image-classification",
            "library_name: onnx",
            "---",
            "",
            f"# {about['backbone']} for {len(facts.labels)} classes",
            "",
            f"Trained {about['created']} with sagemaker-image-classification "
            f"{about['versions']['sagemaker-image-classification']}, backend {about['backend']}.",
            "",
            f"- **Input:** one image, prepared to {size} (channels×height×width), "
            f"{facts.preprocessing['mode']} with resize {facts.preprocessing['resize']}.",
            "- **Output:** one probability per class, adding to 1. The model always names one of "
            "its classes, also for images of none of them.",
            f"- **Data:** {measured['training_samples']} training and "
            f"{measured['validation_samples']} validation images.",
            f"- **Validation accuracy:** {measured['validation']['accuracy']:.4f} after epoch "
            f"{measured['best_epoch']} of {measured['epochs']}, the best one. It chose the epoch, "
            "so it is slightly optimistic.",
            "",
            "| Class | Validation images | Recall | Precision |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _percent(share: object) -> str:
    return f"{100 * share:.1f} %" if isinstance(share, float) else "–"
