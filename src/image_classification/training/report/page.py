"""report.html: one file, no network, no script; curves and tables of a finished job."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence

import numpy as np

from image_classification.training.evaluation import confusions, per_class
from image_classification.training.report.charts import line_chart
from image_classification.training.report.facts import Facts

_MOST_CONFUSIONS = 15
_MOST_ERRORS = 30
_LARGEST_MATRIX = 30

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
       color: #1d2733; background: #fff }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5dbe1 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #eceff2 }
th:first-child, td:first-child { text-align: left }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem } figure { margin: 0 }
.scroll { overflow-x: auto; margin: 1rem 0 } td.text, th.text { text-align: left }
pre { background: #f4f6f8; padding: 1rem; overflow-x: auto } .number { font-size: 2.2rem }
"""


def page(facts: Facts) -> str:
    """The report as HTML text."""
    about = facts.description
    title = f"{about['backbone']}, {len(facts.labels)} classes"
    sections = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(about['job'] or 'training job')} · {_text(about['created'])} · backend "
        f"{_text(about['backend'])}</p>",
        _summary(facts),
        _curves(facts),
        _classes(facts),
        _confusions(facts),
        _errors(facts),
        _bad_samples(facts),
        "<h2>Settings</h2><pre>"
        + _text(json.dumps(about["hyperparameters"], indent=1, ensure_ascii=False))
        + "</pre>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(sections)
        + "</body></html>"
    )


def _summary(facts: Facts) -> str:
    measured = facts.description["metrics"]
    accuracy = measured["validation"]["accuracy"]
    return (
        f'<p><span class="number">{100 * accuracy:.1f} %</span> of '
        f"{measured['validation_samples']} validation images right, after epoch "
        f"{measured['best_epoch']} of {measured['epochs']} (the best one); trained on "
        f"{measured['training_samples']} images.</p>"
    )


def _curves(facts: Facts) -> str:
    charts = []
    for name in ("accuracy", "loss"):
        series = {
            "training": [record.train[name] for record in facts.history.epochs],
            "validation": [record.validation[name] for record in facts.history.epochs],
        }
        ceiling = 1.0 if name == "accuracy" else float("inf")
        charts.append(line_chart(name.capitalize(), series, ceiling))
    rows = [
        [
            record.epoch + 1,
            f"{record.train['loss']:.4f}",
            f"{record.validation['loss']:.4f}",
            f"{record.train['accuracy']:.4f}",
            f"{record.validation['accuracy']:.4f}",
            f"{record.images_per_second:.1f}",
            f"{100 * record.wait_share:.1f} %",
        ]
        for record in facts.history.epochs
    ]
    header = [
        "Epoch",
        "Training loss",
        "Validation loss",
        "Training accuracy",
        "Validation accuracy",
        "Images/s",
        "Waiting for data",
    ]
    return f'<h2>Epochs</h2><div class="charts">{"".join(charts)}</div>' + _table(header, rows)


def _classes(facts: Facts) -> str:
    rows = [
        [row["label"], row["samples"], _percent(row["recall"]), _percent(row["precision"])]
        for row in per_class(facts.outcomes, facts.labels.names)
    ]
    return "<h2>Classes</h2>" + _table(["Class", "Images", "Recall", "Precision"], rows)


def _confusions(facts: Facts) -> str:
    if facts.outcomes.targets.ndim == 2:
        return ""
    names, pairs = facts.labels.names, confusions(facts.outcomes)
    content = "<h2>Confusions</h2>"
    if len(names) <= _LARGEST_MATRIX:
        classes = range(len(names))
        rows = [[names[t], *(pairs.get((t, p), 0) for p in classes)] for t in classes]
        content += "<p>Row: true class; column: predicted.</p>" + _table(["", *names], rows)
    wrong = [[names[t], names[p], count] for (t, p), count in pairs.items() if t != p]
    if not wrong:
        return content + "<p>None.</p>"
    return content + _table(["True class", "Predicted", "Images"], wrong[:_MOST_CONFUSIONS])


def _errors(facts: Facts) -> str:
    outcomes, names = facts.outcomes, facts.labels.names
    if outcomes.targets.ndim == 2:
        return ""  # with several labels an image is seldom right or wrong as a whole
    predicted = outcomes.probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != outcomes.targets)
    sureness = outcomes.probabilities[wrong, predicted[wrong]]
    rows = [
        [
            outcomes.keys[index],
            names[outcomes.targets[index]],
            names[predicted[index]],
            f"{outcomes.probabilities[index, predicted[index]]:.3f}",
        ]
        for index in wrong[np.argsort(-sureness, kind="stable")][:_MOST_ERRORS]
    ]
    if not rows:
        return "<h2>Surest errors</h2><p>None.</p>"
    header = ["Image", "True class", "Predicted", "Probability"]
    return "<h2>Surest errors</h2>" + _table(header, rows)


def _bad_samples(facts: Facts) -> str:
    if not facts.bad_samples:
        return ""
    return f"<h2>Unusable images</h2><p>{len(facts.bad_samples)} images were skipped.</p>" + _table(
        ["Image", "Reason"], facts.bad_samples
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    rows = list(rows)
    kinds = ["text" if isinstance(value, str) else "" for value in (rows[0] if rows else header)]
    head = "".join(
        f'<th class="{kind}">{_text(name)}</th>' for kind, name in zip(kinds, header, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{_text(value)}</td>'
            for kind, value in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _text(value: object) -> str:
    return html.escape(str(value))


def _percent(share: object) -> str:
    return f"{100 * share:.1f} %" if isinstance(share, float) else "–"
