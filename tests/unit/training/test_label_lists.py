"""The lists of labels to review that a job writes."""

from __future__ import annotations

from pathlib import Path

from image_classification.training.output import write_label_lists
from image_classification.training.results import Results
from tests.unit.training.test_report_pages import results  # noqa: F401


def test_a_list_of_an_earlier_job_that_a_person_may_have_edited_is_kept(
    tmp_path: Path,
    results: Results,  # noqa: F811
) -> None:
    write_label_lists(tmp_path, results)
    path = tmp_path / "label-review-train.csv"
    written = path.read_text()
    for number in (1, 2):
        path.write_text(f"edited {number}")
        write_label_lists(tmp_path, results)
        assert path.read_text() == written
        assert (tmp_path / f"label-review-train-old-{number}.csv").read_text() == f"edited {number}"
    assert len(list(tmp_path.iterdir())) == 3
