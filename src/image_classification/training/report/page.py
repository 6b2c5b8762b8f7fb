"""report.html: one file, no network, no script; what a finished job did, and where it is wrong."""

from __future__ import annotations

import json

from image_classification.html import document, table, text
from image_classification.pages.charts import class_bars
from image_classification.training.calibration import Reliability
from image_classification.training.evaluation import confusions, per_class
from image_classification.training.report import MOST_MISTAKES, Facts, Mistake
from image_classification.training.report.charts import line_chart, reliability_chart

_IMBALANCED = 10  # times more images in the largest class than in the smallest
_MOST_NAMED = 10
_MOST_BAD = 200


def data_classes(facts: Facts) -> str:
    """Images of each class in each split, and what is odd about them."""
    rows = [
        [name, sum(counts), sum(count > 0 for count in counts), min(counts), max(counts)]
        for name, counts in facts.class_counts.items()
    ]
    total = "Labels" if facts.is_multi_label else "Images"
    header = ["Split", total, "Classes", "Smallest class", "Largest class"]
    remarks = "".join(f"<li>{text(remark)}</li>" for remark in _remarks(facts))
    return (
        "<h2>Data</h2>"
        + table(header, rows)
        + (f"<ul>{remarks}</ul>" if remarks else "")
        + str(class_bars(facts.labels.names, facts.class_counts))
    )


def _remarks(facts: Facts) -> list[str]:
    """One sentence each."""
    remarks = []
    for split, counts in facts.class_counts.items():
        absent = [n for n, count in zip(facts.labels.names, counts, strict=True) if not count]
        if absent:
            more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
            remarks.append(f"{split} has no image of {', '.join(absent[:_MOST_NAMED])}{more}")
        present = [count for count in counts if count]
        if present and max(present) >= _IMBALANCED * min(present):
            remarks.append(
                f"{split}: the largest class has {max(present)} images, the smallest "
                f"{min(present)}: accuracy hides how the small data_classes fare"
            )
    return remarks


def unusable(facts: Facts) -> str:
    """The images that were skipped."""
    if not facts.bad_samples:
        return "<h3>Unusable images</h3><p>None.</p>"
    shown = facts.bad_samples[:_MOST_BAD]
    count = len(facts.bad_samples)
    more = f"; the first {_MOST_BAD} of them" if count > _MOST_BAD else ""
    skipped = "1 image was skipped" if count == 1 else f"{count} images were skipped"
    return f"<h3>Unusable images</h3><p>{skipped}{more}:</p>" + table(["Image", "Reason"], shown)


def hyperparameters(facts: Facts) -> str:
    """What the job or its preset gave, what was left to its default, and what both came to."""
    settings = json.dumps(facts.description["hyperparameters"], indent=1, ensure_ascii=False)
    given = [
        (_named(name, origin), value)
        for name, value, origin in facts.hyperparameters
        if origin != "default"
    ]
    rest = [row[:2] for row in facts.hyperparameters if row[2] == "default"]
    content = "<h2>Hyperparameters</h2>"
    content += table(["Given", "Value"], given) if given else "<p>None was given.</p>"
    return (
        f"{content}<details><summary>{len(rest)} defaults</summary>"
        f"{table(['Default', 'Value'], rest)}</details>"
        "<details><summary>What they came to</summary>"
        f"<pre>{text(settings)}</pre></details>"
    )


def _named(name: str, origin: str) -> str:
    """A hyperparameter with the spelling or the preset that it came by."""
    if origin.startswith("preset "):
        return f"{name} ({origin})"
    return name if name == origin else f"{name} (given as {origin})"


_MOST_CONFUSIONS = 15
_LARGEST_MATRIX = 30


def epochs(facts: Facts) -> str:
    """Curves of every metric, and the numbers behind them."""
    history = facts.history.epochs
    charts = []
    for name in history[0].train:
        series = {
            "training": [record.train[name] for record in history],
            "validation": [record.validation[name] for record in history],
        }
        ceiling = float("inf") if name == "loss" else 1.0
        charts.append(line_chart(metric_title(name), series, ceiling))
    rows = [
        [
            record.epoch + 1,
            f"{record.train['loss']:.4f}",
            f"{record.validation['loss']:.4f}",
            f"{record.train['accuracy']:.4f}",
            f"{record.validation['accuracy']:.4f}",
            f"{record.learning_rate:.6f}",
            f"{record.images_per_second:.1f}",
            f"{100 * record.wait_share:.1f} %",
            f"{100 * record.outside_share:.1f} %",
        ]
        for record in history
    ]
    header = ["Epoch", "Training loss", "Validation loss", "Training accuracy"]
    header += ["Validation accuracy", "Learning rate", "Images/s", "Waiting for data"]
    header.append("Outside the step")
    return f'<h2>Epochs</h2><div class="charts">{"".join(charts)}</div>' + table(header, rows)


def model_classes(facts: Facts) -> str:
    """How each class fares, the least recalled first."""
    rows = per_class(facts.outcomes, facts.labels.names)
    rows.sort(key=lambda row: (row["recall"] is None, row["recall"] or 0.0))
    cells = [
        [str(row["label"]), row["samples"], percent(row["recall"]), percent(row["precision"])]
        for row in rows
    ]
    note = "<p>Recall: share of its images that are found. Precision: share of what is called so "
    note += "that is so. The least recalled class first.</p>"
    return f"<h2>Classes</h2>{note}" + table(["Class", "Images", "Recall", "Precision"], cells)


def confusion(facts: Facts) -> str:
    """The matrix where it can be read, and the most frequent confusions."""
    if facts.is_multi_label:
        return ""  # a class is not taken for another, but found or not
    names, pairs = facts.labels.names, confusions(facts.outcomes)
    content = "<h2>Confusion</h2>"
    if len(names) <= _LARGEST_MATRIX:
        content += _matrix(names, pairs)
    wrong = [[names[t], names[p], count] for (t, p), count in pairs.items() if t != p]
    if not wrong:
        return content + "<p>No image is taken for another class.</p>"
    shown = wrong[:_MOST_CONFUSIONS]
    return f"{content}<h3>Top confusions</h3>" + table(["True class", "Taken for", "Images"], shown)


def _matrix(names: tuple[str, ...], pairs: dict[tuple[int, int], int]) -> str:
    """Shaded by the share of the row: blue where it is right, red where it is not."""
    totals = [sum(pairs.get((t, p), 0) for p in range(len(names))) for t in range(len(names))]
    head = "".join(f'<th class="column">{text(name)}</th>' for name in names)
    body = []
    for t, name in enumerate(names):
        cells = []
        for p in range(len(names)):
            count = pairs.get((t, p), 0)
            share = count / max(totals[t], 1)
            color = "31,111,178" if t == p else "209,60,40"
            shade = f"rgba({color},{min(0.85, share if t == p else 2 * share):.2f})"
            dark = ";color:#fff" if share > (0.6 if t == p else 0.3) else ""
            shown = count or "·"
            cells.append(f'<td style="background:{shade}{dark}">{shown}</td>')
        body.append(f'<tr><th class="row">{text(name)}</th>{"".join(cells)}</tr>')
    return (
        "<p>Row: the true class; column: what the model says.</p>"
        f'<div class="scroll"><table class="matrix"><tr><th></th>{head}</tr>'
        f"{''.join(body)}</table></div>"
    )


def surest_errors(facts: Facts) -> str:
    """Pictures of the errors that the model is surest of: often these are wrong labels."""
    if facts.is_multi_label:
        return ""
    if not facts.mistakes:
        return "<h2>Most confident mistakes</h2><p>None.</p>"
    figures = "".join(_figure(mistake, facts.labels.names) for mistake in facts.mistakes)
    return (
        f"<h2>Most confident mistakes</h2><p>The model is wrong and confident; the most "
        f"confident mistakes come first (at most {MOST_MISTAKES}). Look for wrong labels.</p>"
        f'<div class="gallery small">{figures}</div>'
    )


def _figure(mistake: Mistake, names: tuple[str, ...]) -> str:
    picture = '<span class="nothing">nothing to see</span>'
    if mistake.picture:
        picture = f'<img src="{mistake.picture}" alt="">'
    return (
        f"<figure>{picture}<figcaption><b>{text(names[mistake.predicted])}</b> "
        f"{100 * mistake.probability:.1f} %<br>labeled {text(names[mistake.target])}: "
        f"{100 * mistake.target_probability:.1f} %<br>{text(mistake.key)}</figcaption></figure>"
    )


def calibration(facts: Facts) -> str:
    """How often the model is right when it says so, before and after the temperature."""
    found, (before, after) = facts.calibration, facts.reliability
    series: dict[str, Reliability] = {"as trained": before}
    if not found.reason:
        series["as served"] = after
    things = "decisions" if facts.is_multi_label else "images"
    line = found.line().replace("->", "→")
    return (
        f"<h2>Calibration</h2><p>{text(line)}.</p>"
        f"<p>Of the {things} that the model is 80 % sure of, 80 % should be right: points on the "
        f"diagonal. Below it the model is too sure of itself. Larger points are more {things}.</p>"
        f'<div class="charts">{reliability_chart(series)}</div>'
    )


def metric_title(name: str) -> str:
    """A metric's name for people: `top_k_accuracy_5` is Top-5 accuracy."""
    k = name.removeprefix("top_k_accuracy_")
    return name.replace("_", " ").capitalize() if k == name else f"Top-{k} accuracy"


def percent(share: object) -> str:
    """A share as percentage, – where it is undefined."""
    return f"{100 * share:.1f} %" if isinstance(share, float) else "–"


def page(facts: Facts) -> str:
    """The report as HTML text."""
    about = facts.description
    title = f"{about['backbone']}, {len(facts.labels)} classes"
    sections = [
        f"<h1>{text(title)}</h1>",
        f"<p>{text(about['job'] or 'training job')} · {text(about['created'])} · backend "
        f"{text(about['backend'])}</p>",
        _summary(facts),
        epochs(facts),
        confusion(facts),
        model_classes(facts),
        surest_errors(facts),
        calibration(facts),
        data_classes(facts),
        unusable(facts),
        hyperparameters(facts),
    ]
    return document(title, sections)


def _summary(facts: Facts) -> str:
    measured, epochs = facts.description["metrics"], facts.history.epochs
    validation, test = measured["validation"], measured.get("test")
    seconds = sum(record.seconds for record in epochs)
    rate = sum(record.images_per_second for record in epochs) / len(epochs)
    figures = [
        (f"{value:.4f}", f"validation {metric_title(name).lower()}")
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
