"""What the record of fingerprints says of two commits."""

from tests.fingerprints import CONFIGS, differences, make_runs

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
