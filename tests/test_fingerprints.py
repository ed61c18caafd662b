"""What the record of fingerprints says of two commits."""

import json

import pytest

from tests import fingerprints
from tests.fingerprints import CONFIGS, differences, last_line, main, make_runs

ROWS = [[1, "a", "b", "c"], [2, "d", "e", "f"]]


def test_a_record_has_every_config():
    assert set(CONFIGS) <= set(make_runs())


def test_equal_records_have_no_differences():
    assert differences({"x": ROWS, "y": "failed: z"}, {"x": ROWS, "y": "failed: z"}) == []


def test_the_first_update_that_differs_is_named_with_what_differs():
    other = [ROWS[0], [2, "d2", "e", "f2"]]
    assert differences({"x": ROWS}, {"x": other}) == ["x: differs from update 2, in fingerprint, fingerprint/batch"]


def test_a_run_that_fails_or_is_absent_differs():
    assert differences({"x": ROWS, "y": ROWS}, {"x": "failed: z"}) == [
        "x: 2 updates, now failed: z",
        "y: 2 updates, now absent",
    ]


def test_a_run_that_ended_early_differs():
    assert differences({"x": ROWS}, {"x": ROWS[:1]}) == ["x: 2 updates, now 1 updates"]


def test_the_exit_code_is_1_where_a_run_failed_though_it_failed_before(tmp_path, monkeypatch):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    for results, code in (({"x": ROWS}, 0), ({"x": "failed: z"}, 1)):
        monkeypatch.setattr(fingerprints, "record", lambda _, results=results: results)
        before.write_text(json.dumps(results))
        assert main([str(after)]) == main([str(after), "--against", str(before)]) == code


def test_a_name_that_no_run_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "record", lambda chosen: dict.fromkeys(chosen, ROWS))
    assert main([str(tmp_path / "out.json"), "--only", "impala_catch, resumed"]) == 0
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out.json"), "--only", "impala_cach"])


def test_a_process_that_was_killed_may_have_said_nothing():
    assert last_line("one\nother\n\n", 1) == "other"
    assert last_line("", -9) == "exit code -9"
