"""Real training that fails and is started again by the launcher; tests/launch/ has the cases."""

import re

from tests.faults.commands import SCRIPTED
from tests.faults.sameness import assert_same
from tests.processes import launch

ONCE = ("--config.env.options.only_in_pool=3", "--config.env.options.raise_at_step=6")  # After the boundary.
ALWAYS = ("--config.env.options.raise_at_step=6",)
RESTARTED = ("--max_restarts", 3, "--restart_pause_s", 0, "--workdir", "run")


def test_a_run_that_failed_once_ends_as_if_it_had_not(tmp_path, straight_scripted):
    result = launch(*SCRIPTED, *ONCE, *RESTARTED, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"p0 ended with exit code 1, at update [45]: restart 1 of 3 in 0 s.", result.stderr)
    assert "Goes on with the run in this folder, after update 4" in result.stderr
    assert_same(tmp_path / "run", straight_scripted, SCRIPTED)


def test_a_run_that_always_fails_is_given_up_at_once(tmp_path):
    result = launch(*SCRIPTED, *ALWAYS, *RESTARTED, cwd=tmp_path)
    assert result.returncode == 1
    assert "as before: not started again." in result.stderr
    assert result.stderr.count("The run failed: actor 0 failed: RuntimeError") == 2
