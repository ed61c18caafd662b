"""Updates whose loss or gradient is not finite."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents.parts.nonfinite import first_bad_leaf
from podrl.experience.turn import Turn
from podrl.types import Timestep
from tests.short_runs import make_agent, make_agent_update, make_config, random_trajectory, run, scripted_config

NAN_IN_UPDATE_6 = {"nan_at_step": 22}  # Of 4 steps in each of two pools.


def test_the_run_stops_and_says_where():
    saved = []
    run(scripted_config(total_env_steps=4 * 8 * 4), save=saved.append)
    config = scripted_config({"nan_at_step": 6}, checkpoint__every_updates=4)  # In the second update from a boundary.
    message = (
        r"Update 6 is not finite: loss/total is nan, grad/norm is nan\. Its batch was not: the reward of environment 0 "
        r"of the pool \(seed \d+\) is nan, at step 2 of rollout 5 of actor 0\. The last good checkpoint is of update 4"
        r"\. Mend the environment"
    )
    with pytest.raises(RuntimeError, match=message):
        run(config, start=saved.pop(), save=saved.append)
    assert saved == []


def test_numbers_that_go_wrong_in_a_finite_batch_are_the_learners():
    with pytest.raises(RuntimeError, match=r"The first parameter that .* There is no checkpoint yet\. A smaller agent"):
        run(scripted_config({"nan_at_step": 6, "nan": 3e38}, agent__max_reward=0))  # Whose square is infinite.


@pytest.mark.parametrize(
    ("reward", "observation", "said"),
    [
        ([0, 0, np.nan, np.nan], np.zeros((4, 2)), "the reward of environment 2 of the pool (seed 12) is nan"),
        ([0, 1e300, 0, 0], np.zeros((4, 2)), "the reward of environment 1 of the pool (seed 11) is inf"),
        (
            [0, 0, 0, 0],
            {"a": np.zeros((4, 2), np.uint8), "b": np.array([[1, 2], [3, 4], [5, 6], [7, -np.inf]], np.float32)},
            "the observation/b of environment 3 of the pool (seed 13) is -inf",
        ),
        ([3e38] * 4, np.full((4, 2), -3e38, np.float32), ""),  # Whose sums are not finite.
    ],
)
def test_a_batch_that_is_not_finite_says_whose_it_is(reward, observation, said):
    with np.errstate(over="ignore"):
        rewards = np.array(reward, np.float32)
    none = np.zeros(4, bool)
    timestep = Timestep(observation=observation, reward=rewards, discount=rewards, first=none)
    turn = Turn(pool=None, seeds=range(10, 14), episodes=None, ended_numbers=dict, state=None, timestep=timestep)
    assert turn.find_nonfinite() == said


def test_an_infinite_reward_that_clipping_hides_is_said(caplog):
    inf = scripted_config({"nan_at_step": 6, "nan": 1e39}, agent__max_reward=1.0)
    outcome, _ = run(inf)
    assert outcome.finished
    assert caplog.text.count("Not finite: the reward of environment 0 of the pool") == 1


def test_without_a_checkpoint_that_is_said():
    with pytest.raises(RuntimeError, match=r"Update 6 is not finite: .* There is no checkpoint yet\."):
        run(scripted_config(NAN_IN_UPDATE_6))


def test_a_run_may_skip_such_an_update():
    outcome, rows = run(scripted_config(NAN_IN_UPDATE_6, on_nonfinite="skip"))
    assert outcome.finished
    assert [row["grad/skipped"] for row in rows] == [0] * 5 + [1] + [0] * 4
    fingerprints = [row["fingerprint/params"] for row in rows]
    assert fingerprints[5] == fingerprints[4]
    assert len(set(fingerprints)) == 9


def test_skipped_updates_are_said_and_counted_until_the_next_row(caplog):
    _, rows = run(scripted_config(NAN_IN_UPDATE_6, on_nonfinite="skip", log__every_updates=4))
    assert [(row["learner_steps"], row["grad/skipped"]) for row in rows] == [(1, 0), (4, 0), (8, 1), (10, 0)]
    assert "Update 6 was skipped: it is not finite." in caplog.text


def test_skipping_leaves_all_but_the_step_as_it_was():
    agent, spec = make_agent(make_config())
    state = agent.init(jax.random.key(0))
    good = random_trajectory(agent, spec, 4, 8)
    bad = jax.tree.map(lambda x: x, good)
    object.__setattr__(bad, "reward", bad.reward.at[0, 0].set(jnp.inf))
    update = jax.jit(make_agent_update(agent, skips_nonfinite=True))
    kept, metrics = update(state, bad)
    assert (int(kept.step), float(metrics["grad/skipped"])) == (1, 1.0)
    jax.tree.map(np.testing.assert_array_equal, (kept.params, kept.opt_state), (state.params, state.opt_state))
    moved, metrics = update(state, good)
    assert float(metrics["grad/skipped"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, moved.params, jax.jit(make_agent_update(agent))(state, good)[0].params)


def agent_with_overflow(config, update):
    """The config's agent, whose statistics overflow in an update while its loss stays finite."""
    agent, _ = make_agent(config)

    def with_peak(state, peak):
        return dataclasses.replace(state, extra={"key": jax.random.key(0), "peak": jnp.float32(peak)})

    return dataclasses.replace(
        agent,
        init=lambda key: with_peak(agent.init(key), 1.0),
        observe=lambda state, rollouts: with_peak(state, jnp.where(state.step + 1 >= update, jnp.inf, 1.0)),
    )


@pytest.mark.parametrize(("every", "saved_before", "update"), [(4, [4], 8), (0, [], 10)])
def test_a_state_that_is_not_finite_though_its_loss_is_does_not_become_a_checkpoint(every, saved_before, update):
    config, saved = make_config(checkpoint__every_updates=every), []
    message = f"Update {update} leaves a state that is not finite, in peak, although its loss is. It is not saved."
    with pytest.raises(RuntimeError, match=message):
        run(config, agent=agent_with_overflow(config, 6), save=saved.append)
    assert [snapshot.counters.learner_steps for snapshot in saved] == saved_before


def test_where_updates_are_skipped_such_a_state_is_saved():
    config, saved = make_config(checkpoint__every_updates=4, on_nonfinite="skip"), []
    run(config, agent=agent_with_overflow(config, 6), save=saved.append)
    assert [snapshot.counters.learner_steps for snapshot in saved] == [4, 8, 10]


def test_a_run_that_stops_says_what_else_of_its_state_is_not_finite():
    config = scripted_config(NAN_IN_UPDATE_6 | {"nan": 3e38}, agent__max_reward=0)
    with pytest.raises(RuntimeError, match=r"Of the agent's further state peak is not finite\. There is no checkpoint"):
        run(config, agent=agent_with_overflow(config, 6))


def test_the_first_bad_leaf_is_named_by_its_path():
    params = {"a": {"kernel": jnp.ones(3)}, "b": jnp.array([1.0, jnp.inf])}
    assert first_bad_leaf(params) == "b"
    assert first_bad_leaf({"a": jnp.ones(2), "key": jax.random.key(0), "count": jnp.zeros((), jnp.int32)}) is None
