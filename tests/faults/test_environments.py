"""Environments that fail in every way: raise, hang, stall, return nonsense."""

import itertools
import re
import signal
import time

import pytest

from tests.faults.commands import SCRIPTED
from tests.faults.sameness import assert_same, assert_whole
from tests.processes import (
    LIMIT_S,
    ROOT,
    checkpoints,
    error_lines,
    finish,
    launch,
    num_rows,
    read_rows,
    running,
    wait_for,
)

IN_THE_SECOND_HALF = "--config.env.options.only_in_pool=3"


def options(**faults):
    return [f"--config.env.options.{name}={value}" for name, value in faults.items()]


def fail(cwd, *arguments):
    """A run that fails after its boundary; returns what it said."""
    result = launch(*SCRIPTED, IN_THE_SECOND_HALF, *arguments, "--workdir", "run", cwd=cwd)
    assert result.returncode != 0
    assert checkpoints(cwd / "run") == [4]
    return result.returncode, result.stderr


def go_on(cwd, straight, *arguments):
    """The same command: this time nothing goes wrong, and nothing is missing from the result."""
    result = launch(*SCRIPTED, IN_THE_SECOND_HALF, *arguments, "--workdir", "run", cwd=cwd)
    assert result.returncode == 0, result.stderr
    assert "Resumes the run in this folder after update 4" in result.stderr
    assert_same(cwd / "run", straight, SCRIPTED)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"raise_at_step": 6}, "The run failed: actor 0 failed: RuntimeError: scripted failure at step 6"),
        (
            {"nan_at_step": 6},
            "The run failed: Update 6 is not finite: loss/total is nan, grad/norm is nan. Its batch was not: the "
            "reward of environment 0 of the pool (seed S) is nan, at step 2 of rollout 5 of actor 0. The last good "
            "checkpoint is of update 4. Mend the environment; on_nonfinite='skip' drops such updates.",
        ),
        pytest.param(
            {"wide_at_step": 6},
            "The run failed: actor 0 failed: ValueError: tests.envs.scripted.Pool returned observation as "
            "float32[4, 4]; expected float32[4, 3]. A source's pools must return what its make_spec describes, with a "
            "row for each environment, and float32 reward and discount, and bool first.",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_error_is_one_clear_line_with_details_below_it(tmp_path, straight_scripted, fault, said):
    code, stderr = fail(tmp_path, *options(**fault))
    assert code == 1
    assert [re.sub(r"seed \d+", "seed S", line) for line in error_lines(stderr)] == [said, "Details:"]
    assert "Traceback" in stderr.partition("Details:")[2]
    if "raise_at_step" not in fault:  # After that one a run goes on in tests/faults/test_restarts.py.
        go_on(tmp_path, straight_scripted, *options(**fault))


def test_a_first_observation_of_the_wrong_shape_is_named_before_anything_is_learned(tmp_path):
    result = launch(*SCRIPTED, *options(wide_at_step=0), "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 1
    assert "tests.envs.scripted.Pool returned observation as float32[4, 4]; expected float32[4, 3]" in result.stderr
    assert num_rows(tmp_path / "run") == 0


@pytest.mark.parametrize("hang_s", [3600.0, pytest.param(8.0, marks=pytest.mark.slow)])
def test_one_that_hangs_is_named_with_the_stacks_of_all_threads(tmp_path, straight_scripted, hang_s):
    """For good, or for longer than anybody waits."""
    fault = (*options(hang_at_step=6, hang_s=hang_s), "--config.actors.timeout_s=3")
    code, stderr = fail(tmp_path, *fault)
    assert code == 124
    assert "The run failed: The learner waited 3 s for a rollout: actor 0 has been in 'env' for " in stderr
    assert " s, at step 2 of 4 of rollout 5. If environments are this slow, raise actors.timeout_s or" in stderr
    assert "tests/envs/scripted.py" in stderr.partition("Stacks")[2]
    if hang_s < 60:  # What the other leaves is the same.
        go_on(tmp_path, straight_scripted, *fault)


@pytest.mark.slow
def test_one_that_stalls_within_the_limit_changes_nothing(tmp_path, straight_scripted):
    stall = (*options(hang_at_step=6, hang_s=2.0), "--config.actors.timeout_s=8")
    result = launch(*SCRIPTED, IN_THE_SECOND_HALF, *stall, "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_same(tmp_path / "run", straight_scripted, SCRIPTED)
    clock = [row["time/wall_s"] for row in read_rows(tmp_path / "run")]
    # Less what was learned while it stalled.
    assert max(after - before for before, after in itertools.pairwise(clock)) > 1.0


@pytest.mark.slow
def test_sigterm_ends_a_run_that_waits_for_one_and_saves_what_it_has(tmp_path):
    limit = "--config.actors.timeout_s=8"  # Threads are waited for as long, when the run ends.
    arguments = (*SCRIPTED, *options(hang_at_step=10), limit, "--workdir", "run")
    with running(*arguments, cwd=tmp_path) as process:
        wait_for(lambda: num_rows(tmp_path / "run") == 1, process)  # That of update 2 waits for its successor.
        time.sleep(1.0)  # Now the learner waits for rollout 2.
        process.send_signal(signal.SIGTERM)
        stderr = finish(process)
    assert process.returncode == 75
    assert f"To resume: the same command with --workdir={tmp_path / 'run'}" in stderr
    assert checkpoints(tmp_path / "run") == [2]
    assert_whole(tmp_path / "run", 2)


SLOW_EVALUATION = """
from tests.faults import config

def get_config():
    slow = config.get_config()
    slow.env.options.evaluation = {"sleep_s": 1.0}
    return slow
"""


@pytest.mark.slow
def test_a_last_evaluation_may_take_longer_than_a_thread_may_stand_still(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_EVALUATION)
    evaluation = ("--config.evaluate.every_updates=100", "--config.evaluate.episodes=2")
    limits = ("--config.watchdog_s=2.5", "--config.actors.timeout_s=2")
    result = launch("--config", "slow.py", *evaluation, *limits, "--workdir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Evaluated update 8: return" in result.stderr


RUDE = (
    *("--config", ROOT / "configs/impala_catch.py", "--config.env.source=gymnasium"),
    *("--config.env.id=tests.envs.faulty:Rude", "--config.actors.num_envs=2", "--config.actors.unroll_length=4"),
    *("--config.agent.minibatches=1", "--config.checkpoint.every_updates=3", "--config.log.every_updates=1"),
    *("--config.log.tensorboard=False", "--config.total_env_steps=1e8", "--config.actors.timeout_s=8"),
)


def test_one_that_takes_signals_prints_and_hangs_in_close_ends_nothing(tmp_path):
    """Its terminal closes: stdout is gone first, as in `| head`, and then comes SIGHUP, which saves."""
    with running(*RUDE, "--workdir", "run", cwd=tmp_path) as process:
        process.stdout.close()
        wait_for(lambda: checkpoints(tmp_path / "run")[-1:] >= [6], process)  # After the second boundary.
        process.send_signal(signal.SIGHUP)
        stderr = process.stderr.read()
        assert process.wait(LIMIT_S) == 75
    assert re.search(r"tests/envs/faulty.py, line \d+ asked for SIGHUP, which podrl keeps", stderr)
    assert stderr.count("What is printed on stdout is lost (Broken pipe). The run continues") == 1
    assert "actor 0: an environment hangs in close. The run continues." in stderr
    assert f"To resume: the same command with --workdir={tmp_path / 'run'}" in stderr
    assert error_lines(stderr) == ["actor 0 did not end; leaving without."]  # Its environments are still being closed.
    assert_whole(tmp_path / "run", checkpoints(tmp_path / "run")[-1])


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("Hangs", "its module, constructor, or first reset or step"),
        pytest.param("HangsWhenEvaluated", "the check that its evaluations end", marks=pytest.mark.slow),
    ],
)
def test_one_that_hangs_before_training_is_named(tmp_path, name, where):
    arguments = (f"--config.env.id=tests.envs.faulty:{name}", "--config.watchdog_s=2", "--config.actors.timeout_s=1")
    result = launch(*RUDE, *arguments, "--config.evaluate.every_updates=1", "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 124
    said = f"The run stands still: env.id='tests.envs.faulty:{name}' in {where}"
    assert f"{said} has done nothing for 2 s. If that can be, raise watchdog_s." in result.stderr
    assert "tests/envs/faulty.py" in result.stderr.partition("Stacks")[2]
