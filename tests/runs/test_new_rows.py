"""Rows are read as they come, and all of them again where a resume has dropped some."""

import json

from podrl.runs.new_rows import NewRows


def lines(*updates, text=""):
    return "".join(json.dumps({"learner_steps": update, "text": text}) + "\n" for update in updates)


def test_rows_come_once_without_an_incomplete_line_until_a_resume_drops_some(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = NewRows(path)

    def read():
        return [row["learner_steps"] for row in rows.read()]

    assert read() == []
    path.write_text(lines(1, 2) + '{"learner_')
    assert read() == [1, 2]
    assert read() == []
    path.write_text(lines(1, 2, 3) + "broken\n" + lines(4))
    assert read() == [3, 4]
    path.write_text(lines(1, 2))  # Shorter.
    assert read() == [1, 2]
    path.write_text(lines(1) + lines(2, 3, 4, 5, text="made again"))  # Longer, and other than before at that place.
    assert read() == [1, 2, 3, 4, 5]
