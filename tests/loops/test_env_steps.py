"""A run ends, and its schedules go, by env steps, whatever the sizes of its updates were."""

import dataclasses

from etils import epath
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from podrl import train
from podrl.assembly import assemble, resume_at
from podrl.config.config import ConfigError
from podrl.experience.schedule import last_update, resumable, updates_ahead
from podrl.ops.optimizers import linear_decay, rate_over_run, share_left
from podrl.runs.state_arrays import check_leaves, to_array_shapes
from podrl.types import Counters
from tests import short_runs
from tests.processes import read_rows
from tests.short_runs import facts

CONFIG = short_runs.make_config(total_env_steps=1000)  # 32 env steps in an update: ends at update 32.


@pytest.mark.parametrize(
    ("num_envs", "updates", "last"),
    [
        (8, 0, 32),
        (8, 10, 32),
        (8, 40, 40),  # It had more steps than it now asks for.
        (16, 10, 21),  # 680 steps are left: 10.6 updates of 64.
        (16, 21, 27),
        (2, 10, 95),
    ],
)
def test_the_last_update_is_the_first_to_reach_what_was_asked_for(num_envs, updates, last):
    config = dataclasses.replace(CONFIG, actors=dataclasses.replace(CONFIG.actors, num_envs=num_envs))
    counters = Counters(learner_steps=updates, env_steps=32 * updates)
    assert last_update(config, counters) == last
    each = config.env_steps_per_update
    later = Counters(learner_steps=updates + 3, env_steps=counters.env_steps + 3 * each)
    if later.env_steps < 1000:
        assert last_update(config, later) == last
        assert updates_ahead(config, later) == updates_ahead(config, counters)


def decay(learning_rate, num_updates, steps_per_update, ahead):
    return rate_over_run(
        learning_rate, decays=True, num_updates=num_updates, steps_per_update=steps_per_update, ahead=ahead
    )


def test_a_decay_goes_by_the_share_of_env_steps_and_is_as_ever_where_sizes_stayed():
    count = jnp.int32(37)
    alike = decay(0.5, 32, 4, 0.0)(jnp.int32(9))(count)
    np.testing.assert_array_equal(alike, linear_decay(0.5, 32 * 4)(count))
    # After 10 updates of 32 steps, 11 of 64 follow: 320 steps of 1024 are 5 of 16 such updates.
    ahead = 5.0 - 10
    rates = [decay(0.5, 21, 4, ahead)(jnp.int32(step))(count) for step in (10, 11, 21, 22)]
    np.testing.assert_allclose(rates, [0.5 * 11 / 16, 0.5 * 10 / 16, 0.0, 0.0], rtol=1e-6)


def test_a_decay_counts_further_than_its_optimizer():
    step, last = jnp.int32(2**29), 2**30
    assert float(share_left(step, last, 0.0)) == 0.5
    np.testing.assert_allclose(decay(0.5, last, 16, 0.0)(step)(jnp.int32(2**31 - 1)), 0.25)


def test_a_decay_tells_one_update_from_the_next_however_many_smaller_ones_there_were():
    # Two thousand million updates of 32 steps, then a million of 65,536.
    done, last = 2 * 10**9, 2 * 10**9 + 1_000_000
    ahead = (done * 32 - done * 65_536) / 65_536
    rates = [float(decay(1.0, last, 4, ahead)(jnp.int32(done + more))(jnp.int32(0))) for more in (0, 1, 10)]
    whole = last + ahead
    np.testing.assert_allclose(rates, [(1_000_000 - more) / whole for more in (0, 1, 10)], rtol=2e-7)


def test_a_finished_run_is_gone_on_from_at_its_end():
    config = dataclasses.replace(CONFIG, checkpoint=dataclasses.replace(CONFIG.checkpoint, every_updates=4))
    assert resumable(config, [4, 8, 10], finished=[10]) == [10, 8, 4]
    assert resumable(config, [4, 8, 10]) == [8, 4, 10]


def test_a_run_that_would_make_more_updates_than_can_be_counted_is_refused_where_it_goes_on():
    class Parts:
        config = CONFIG

    with pytest.raises(ConfigError, match=r"total_env_steps=1000 ends at update 2,147,483,648, .* Use at most 968, or"):
        resume_at(Parts(), Counters(learner_steps=2**31 - 32, env_steps=0))


LATER = {  # By agent: what changes in the middle of the run, the updates and env steps at its end.
    "impala": ({"actors__num_envs": 16, "agent__minibatches": 2}, 12 + 10, 12 * 32 + 10 * 64),
    "ppo": (
        {"actors__unroll_length": 2, "actors__num_envs": 4, "actors__pools_per_thread": 1, "agent__epochs": 3},
        12 + 77,
        1000,
    ),
}


AGENTS = pytest.mark.parametrize("agent", ["impala", pytest.param("ppo", marks=pytest.mark.slow)])


class OtherSizes:
    """Two configs of one run, the second with other sizes."""

    def __init__(self, agent):
        fixed = {"total_env_steps": 1000, "checkpoint__every_updates": 4, "log__tensorboard": False, "agent": agent}
        fixed |= {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
        fixed |= {"agent__clip_decay": True} if agent == "ppo" else {}
        sizes, self.updates, self.env_steps = LATER[agent]
        self.first = dataclasses.replace(
            short_runs.make_config(**fixed), total_env_steps=12 * 32
        )  # Ends at a boundary.
        self.second = short_runs.make_config(**fixed | sizes)

    def begin(self, folder):
        assert train.train(self.first, workdir=str(folder)).finished

    def go_on(self, folder, **how):
        return train.train(self.second, workdir=str(folder), accept_changes=True, **how)


def is_schedule(node):
    return isinstance(node, optax.ScaleByScheduleState)


def schedule_counts(opt_state):
    return [int(node.count) for node in jax.tree.leaves(opt_state, is_leaf=is_schedule) if is_schedule(node)]


@AGENTS
def test_other_sizes_in_the_middle_of_a_run(tmp_path, agent, caplog):
    caplog.set_level("INFO", logger="absl")
    run = OtherSizes(agent)
    run.begin(tmp_path)
    outcome = run.go_on(tmp_path)
    assert outcome.finished
    assert (outcome.counters.learner_steps, outcome.counters.env_steps) == (run.updates, run.env_steps)
    steps = run.second.agent.minibatches * getattr(run.second.agent, "epochs", 1)
    assert schedule_counts(outcome.state.opt_state) == [run.updates * steps]
    rate, each = run.second.agent.optimizer.learning_rate, run.second.env_steps_per_update
    for row in read_rows(tmp_path)[12:]:
        share = 1 - (row["env_steps"] - each) / run.env_steps
        assert row["loss/learning_rate"] == pytest.approx(rate * share, rel=1e-5)
    assert run.go_on(tmp_path).counters == outcome.counters
    assert f"This run is finished: it has {run.env_steps:,} env steps, in {run.updates} updates." in caplog.text


@pytest.mark.slow
@AGENTS
def test_a_run_of_several_sizes_that_is_stopped_goes_on_bit_for_bit(tmp_path, agent):
    run, straight, stopped = OtherSizes(agent), tmp_path / "straight", tmp_path / "stopped"
    run.begin(straight)
    run.go_on(straight)
    run.begin(stopped)
    assert not run.go_on(stopped, stop_code=lambda: len(read_rows(stopped)) >= 17).finished
    run.go_on(stopped)
    assert facts(read_rows(stopped)) == facts(read_rows(straight))


def test_environments_in_a_checkpoint_keep_their_number():
    one, other = (assemble(short_runs.anakin_config(actors__num_envs=number)).state_shape for number in (8, 16))
    said = r"Checkpoint 2 in /run/checkpoints holds its run's environments, .* keep actors\.num_envs, env and "
    with pytest.raises(ConfigError, match=said):
        check_leaves(epath.Path("/run/checkpoints/2"), to_array_shapes(one), to_array_shapes(other))
