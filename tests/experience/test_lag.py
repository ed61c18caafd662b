"""A policy lag that is chosen: every rollout is made with the parameters that the schedule says, however many ahead."""

import dataclasses
import threading

import jax
from jax import numpy as jnp
import pytest

from podrl.agents.parts.interface import Agent
from podrl.experience.turn import NonFinite
from podrl.loops.interface import Outcome
from tests.short_runs import facts, make_agent, make_config, run

ENV_STEPS = 8 * 4  # Of an update.


def telling(agent: Agent) -> Agent:
    """The agent with actors that record the update of the parameters that they hold, by the learner's own count."""

    def act(params, timestep, carry, keys):
        action, behaviour, carry = agent.act(params["own"], timestep, carry, keys)
        return action, {"own": behaviour, "update": jnp.full(action.shape[:1], params["update"])}, carry

    def learn(state, batch):
        trajectory = batch.rollouts.trajectory
        own = dataclasses.replace(trajectory, behaviour=trajectory.behaviour["own"])
        batch = dataclasses.replace(batch, rollouts=dataclasses.replace(batch.rollouts, trajectory=own))
        state, metrics, priority = agent.learn(state, batch)
        updates = trajectory.behaviour["update"]
        wrong = jnp.sum(updates != trajectory.params_version)
        return (
            state,
            {**metrics, "made/first": updates.min(), "made/last": updates.max(), "made/wrong": wrong},
            priority,
        )

    return dataclasses.replace(
        agent,
        actor_params=lambda state: {"own": agent.actor_params(state), "update": state.step},
        act=act,
        learn=learn,
    )


@pytest.mark.parametrize("lag", [0, 1, 2, 4, 8])
def test_every_rollout_is_made_with_the_parameters_of_so_many_updates_before(lag):
    """From the start and from the boundary after update 10 on the lag grows from 0 to what was asked for."""
    config = make_config(actors__lag=lag, total_env_steps=13 * ENV_STEPS, checkpoint__every_updates=10)
    _, rows = run(config, agent=telling(make_agent(config)[0]))
    lags = [min(rollout % 10, lag) for rollout in range(13)]
    versions = [rollout - behind for rollout, behind in enumerate(lags)]
    assert [(row["made/first"], row["made/last"], row["made/wrong"]) for row in rows] == [(v, v, 0) for v in versions]
    assert [row["lag/mean"] for row in rows] == [row["lag/max"] for row in rows] == lags
    shares = [[row[f"lag/{number}"] for number in range(lag + 1)] for row in rows]
    assert shares == [[float(number == behind) for number in range(lag + 1)] for behind in lags]
    assert f"lag/{lag + 1}" not in rows[-1]


@pytest.fixture(scope="module")
def deep() -> tuple[Outcome, list]:
    """A run at a lag of 8 that ends before it has it."""
    return run(make_config(actors__lag=8, total_env_steps=5 * ENV_STEPS))


def test_a_run_may_have_fewer_updates_than_its_lag(deep):
    outcome, rows = deep
    assert outcome.finished
    assert [row["lag/max"] for row in rows] == [0, 1, 2, 3, 4]
    outcome, rows = run(make_config(actors__lag=8, total_env_steps=ENV_STEPS))
    assert (outcome.finished, [row["lag/max"] for row in rows]) == (True, [0])


def test_another_lag_is_another_run_and_the_same_lag_the_same(deep):
    again = run(make_config(actors__lag=8, total_env_steps=5 * ENV_STEPS))[1]
    other = run(make_config(actors__lag=3, total_env_steps=5 * ENV_STEPS))[1]
    assert facts(again) == facts(deep[1])
    fingerprints = [[row["fingerprint/params"] for row in rows] for rows in (deep[1], other)]
    assert [one == another for one, another in zip(*fingerprints, strict=True)] == [True] * 4 + [False]


def test_a_run_that_is_stopped_leaves_rollouts_and_no_thread_and_resumes_with_the_newest_parameters():
    before = set(threading.enumerate())
    config, saved = make_config(actors__lag=8, total_env_steps=12 * ENV_STEPS), []
    asked = iter([False] * (1 + 3) + [True] * 20)

    def save(snapshot):
        saved.append(dataclasses.replace(snapshot, state=jax.tree.map(jnp.copy, snapshot.state)))

    outcome, rows = run(config, should_stop=lambda: next(asked), give_up=lambda: False, save=save)
    assert (outcome.finished, outcome.counters.learner_steps) == (False, 3)
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("actor ")]
    _, later = run(config, start=saved[-1])
    assert [row["lag/max"] for row in rows + later] == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_what_is_not_finite_is_remembered_until_the_learner_has_seen_it():
    found = NonFinite("actor 3", waiting=20)
    for rollout in range(30):  # The learner takes the first when actors are 20 ahead, and sees it fail a little later.
        found.note("the reward is nan", rollout, 2)
    assert found.of(0) == "the reward is nan, at step 2 of rollout 0 of actor 3"
