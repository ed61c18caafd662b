"""A machine is measured once for a study, and again when it is another."""

import dataclasses
import json
import logging

import pytest

from podrl.performance.planning.kept_yardsticks import keep_yardsticks
from podrl.performance.planning.yardsticks import Yardsticks

YARDSTICKS = Yardsticks(flops=1e9, bytes=2.5e9, call_s=1e-4, cores=2, allreduce_s={"2": [1e-4, 1e-9]})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "yardsticks.json"


@pytest.fixture
def measure(caplog):
    """Gives other yardsticks each time."""
    caplog.set_level(logging.INFO, logger="absl")
    flops = iter((1e9, 2e9))
    return lambda: dataclasses.replace(YARDSTICKS, flops=next(flops))


def test_what_was_measured_is_kept(path, measure, caplog):
    assert keep_yardsticks(path, [1, 2], measure).flops == 1e9
    assert keep_yardsticks(path, [1, 2], measure) == Yardsticks(
        flops=1e9, bytes=2.5e9, call_s=1e-4, cores=2, allreduce_s={"2": [1e-4, 1e-9]}
    )
    assert "Predicts with the yardsticks that were measured before" in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("cores", 999, "cores was 999, is"),
        ("fit", 0, "fit was 0, is"),
        ("processes", [1], "processes was [1], is [1, 2]"),
        ("versions", {"jax": "0.1"}, "versions.jax was 0.1"),
    ],
)
def test_another_machine_is_measured_and_what_changed_is_said(path, measure, caplog, key, value, told):
    keep_yardsticks(path, [1, 2], measure)
    kept = json.loads(path.read_text())
    kept["machine"][key] = kept["machine"][key] | value if key == "versions" else value
    path.write_text(json.dumps(kept))
    assert keep_yardsticks(path, [1, 2], measure).flops == 2e9
    assert f"Measures this machine again: {told}" in caplog.text
    assert keep_yardsticks(path, [1, 2], measure).flops == 2e9


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": {}, "yardsticks": {"size": 1}}'])
def test_a_damaged_file_is_measured_again(path, measure, caplog, text):
    path.write_text(text)
    assert keep_yardsticks(path, [1, 2], measure).flops == 1e9
    assert keep_yardsticks(path, [1, 2], measure).flops == 1e9
    assert "does not hold yardsticks" in caplog.text
