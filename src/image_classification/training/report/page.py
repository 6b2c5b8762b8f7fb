"""report.html: one file, no network, no script; what a finished job did, and where it is wrong."""

from __future__ import annotations

from image_classification.data.web_page import document, text
from image_classification.training.report import data_part, model_part
from image_classification.training.report.facts import Facts


def page(facts: Facts) -> str:
    """The report as HTML text."""
    about = facts.description
    title = f"{about['backbone']}, {len(facts.labels)} classes"
    sections = [
        f"<h1>{text(title)}</h1>",
        f"<p>{text(about['job'] or 'training job')} · {text(about['created'])} · backend "
        f"{text(about['backend'])}</p>",
        _summary(facts),
        model_part.epochs(facts),
        model_part.confusion(facts),
        model_part.classes(facts),
        model_part.surest_errors(facts),
        model_part.calibration(facts),
        data_part.classes(facts),
        data_part.unusable(facts),
        data_part.hyperparameters(facts),
    ]
    return document(title, sections)


def _summary(facts: Facts) -> str:
    measured, epochs = facts.description["metrics"], facts.history.epochs
    validation, test = measured["validation"], measured.get("test")
    seconds = sum(record.seconds for record in epochs)
    rate = sum(record.images_per_second for record in epochs) / len(epochs)
    figures = [
        (f"{value:.4f}", f"validation {model_part.metric_title(name).lower()}")
        for name, value in validation.items()
        if name != "accuracy"
    ]
    if test is not None:
        figures.append((f"{100 * test['accuracy']:.1f} %", f"of {measured['test_samples']} test"))
    figures += [
        (f"{facts.calibration.error_after:.4f}", "expected calibration error"),
        (f"{measured['best_epoch']} of {measured['epochs']}", "best epoch"),
        (f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s", "of training steps"),
        (f"{rate:.0f}", "images/s"),
    ]
    right = " × classes" if facts.is_multi_label else ""
    items = "".join(f"<li><b>{text(value)}</b>{text(name)}</li>" for value, name in figures)
    return (
        f'<p><span class="number">{100 * validation["accuracy"]:.1f} %</span> of '
        f"{measured['validation_samples']} validation images{right} right, after epoch "
        f"{measured['best_epoch']} of {measured['epochs']} (the best one); trained on "
        f"{measured['training_samples']} images, started from "
        f'{text(facts.description["started_from"])}.</p><ul class="facts">{items}</ul>'
    )
