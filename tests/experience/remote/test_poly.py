"""Environment workers and dynamic batching, as users start them."""

import pytest

from tests.faults.commands import BREAKOUT
from tests.processes import ROOT, launch, read_rows

CATCH = ("--config", ROOT / "configs/impala_catch_poly.py", "--env_workers", 2)


@pytest.mark.slow
def test_catch_is_learned(tmp_path):
    result = launch(*CATCH, "--workdir", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = read_rows(tmp_path / "run")
    assert rows[-1]["episode/return"] >= 0.95
    assert max(row["lag/max"] for row in rows) <= 2


@pytest.mark.long
def test_breakout_runs(tmp_path):
    flags = ("--config.determinism=free", "--env_workers", 2)
    result = launch(*BREAKOUT, *flags, "--workdir", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [row["learner_steps"] for row in read_rows(tmp_path / "run")] == list(range(1, 13))
