"""What a run of every agent owes, with actors and inside a compiled program: it resumes exactly, on any devices.

Agents that only a data set teaches have this in `tests/agents/test_recorded_contract.py`.
"""

import dataclasses
import os

import jax
import numpy as np
import pytest

from podrl import train
from podrl.actions import ContinuousActions, DiscreteActions
from podrl.agents.parts.loading import agent_names, load_agent
from podrl.config.optimizer import OptimizerConfig
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.runs.state_arrays import to_arrays
from tests.processes import read_rows
from tests.short_runs import facts, make_config, run

pytestmark = pytest.mark.usefixtures("compiled_once")

OWN = os.environ.get("PODRL_AGENTS", "").split()  # Users' agents, see docs/howto/own_algorithm.md.
UPDATES, SAVED, STOPPED = 8, 3, 4
ENVS, LENGTH = 32, 2
PLACEMENTS = {
    "sebulba": {DiscreteActions: {"env_id": "Catch-v0"}, ContinuousActions: {"env_id": "InvertedDoublePendulum-v5"}},
    "anakin": {
        DiscreteActions: {"env_id": "CartPole-v1", "env__max_episode_steps": 12},
        ContinuousActions: {"env_id": "Pendulum-v1", "env__max_episode_steps": 12},
    },
}
RINGS = {"replay__capacity": 4 * ENVS * LENGTH, "replay__batch": 16, "replay__groups": 8}
RINGS |= {"replay__min_steps": 2 * ENVS * LENGTH, "replay__ratio": 0.5}


def cases():
    """Each agent that learns from its own run, in each placement."""
    names = [name for name in OWN or agent_names() if not load_agent(name).AgentConfig().update_shape.needs_data]
    return [pytest.param((name, placement), id=f"{name}-{placement}") for name in names for placement in PLACEMENTS]


def overrides_of(name, placement):
    """A small run, in actions that the agent takes, of all that it can remember: a ring, statistics, targets."""
    config = load_agent(name).AgentConfig()
    discrete = issubclass(DiscreteActions, getattr(config, "action_kinds", object))
    overrides = dict(PLACEMENTS[placement][DiscreteActions if discrete else ContinuousActions])
    if placement == "anakin":
        overrides |= {"env__source": "gymnax", "topology__placement": "anakin"}
    overrides |= {"total_env_steps": UPDATES * ENVS * LENGTH, "actors__num_envs": ENVS, "actors__unroll_length": LENGTH}
    overrides |= {"network__normalize_observations": True, "network__squash_actions": not discrete}
    for field in dataclasses.fields(config):
        if isinstance(getattr(config, field.name), OptimizerConfig):  # So that no step is of a rounding error's sign.
            overrides[f"agent__{field.name}__epsilon"] = 1e-3
    small = {"burn_in": 0, "length": 1, "starts": "rows", "random_steps": ENVS * LENGTH, "target_period": 2}
    overrides |= {f"agent__{key}": value for key, value in small.items() if hasattr(config, key)}
    if config.update_shape.replays:
        overrides |= {"replay__batches": 3, "replay__uses": 2}
    elif config.update_shape.sequences:
        overrides |= RINGS
    return overrides


@pytest.fixture(scope="module", params=cases())
def overrides(request):
    return {"agent": request.param[0], **overrides_of(*request.param)}


@pytest.fixture(scope="module")
def straight(overrides, tmp_path_factory):
    """The folder of the run that nothing stopped, and how it ended."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, train.train(saving(overrides), workdir=str(folder))


def saving(overrides):
    one = {f"topology__{role}_devices_per_process": 1 for role in ("actor", "learner")}
    alone = {} if overrides.get("topology__placement") == "anakin" else one
    kept = {"checkpoint__every_updates": SAVED, "checkpoint__keep": 99, "log__tensorboard": False}
    return make_config(**overrides, **alone, **kept)


def test_a_run_that_is_stopped_resumes_bit_for_bit(overrides, straight, tmp_path):
    folder, outcome = straight

    def should_stop():
        path = tmp_path / "metrics.jsonl"
        return 75 * (path.exists() and len(path.read_text().splitlines()) >= STOPPED)

    stopped = train.train(saving(overrides), workdir=str(tmp_path), stop_code=should_stop)
    assert SAVED < stopped.counters.learner_steps < UPDATES
    assert SAVED in whole_steps(tmp_path)
    resumed = train.train(saving(overrides), workdir=str(tmp_path))
    assert resumed.finished
    assert facts(read_rows(tmp_path)) == facts(read_rows(folder))
    jax.tree.map(np.testing.assert_array_equal, to_arrays(resumed.state), to_arrays(outcome.state))


def test_it_learned(straight):
    """Otherwise what is compared would be of the run's start."""
    folder, _ = straight
    assert len({row["fingerprint/params"] for row in read_rows(folder)}) > UPDATES // 2


@pytest.mark.slow
def test_several_devices_learn_what_one_does(overrides):
    """In the first updates: an action that a rounding error changes would change all that follows."""
    few = overrides | {"total_env_steps": 4 * ENVS * LENGTH}
    several, devices = few, 8
    if few.get("topology__placement") != "anakin":
        split = {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 4}
        several, devices = few | split, 5
    (one, rows), (other, other_rows) = run(make_config(**few)), run(make_config(**several), num_devices=devices)
    for x, y in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(other.state.params), strict=True):
        np.testing.assert_allclose(*jax.device_get((x, y)), atol=2e-5)
    assert rows[-1]["env_steps"] == other_rows[-1]["env_steps"]
