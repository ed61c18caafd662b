"""Environments inside the compiled program: the whole loop, exact resume, devices, and what does not fit."""

from collections import Counter
import dataclasses
import itertools
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl import train
from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.envs.pools.in_graph import Transition, make_many
from podrl.envs.source import JaxEnvironment, load_source, make_environment
from podrl.experience.in_graph_unroll import InGraphUnroller
from podrl.experience.unroll import Unroller
from podrl.learning.fused import FusedLearner
from podrl.loops.anakin import updates_to_next_stop
from podrl.mesh import make_topology
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.runs.state_arrays import from_arrays, to_array_shapes, to_arrays
from podrl.types import Counters, FusedState, Snapshot
from tests import short_runs
from tests.processes import read_rows
from tests.short_runs import anakin_config, facts, run

pytestmark = pytest.mark.usefixtures("compiled_once")

ANAKIN = types.MappingProxyType({"topology__placement": "anakin"})
LIMIT = 9


def make_unroller(config, *, in_loop=True):
    agent, spec = short_runs.make_agent(config)
    unroller = Unroller(agent=agent, spec=spec, unroll_length=config.actors.unroll_length, num_envs=3)
    environment = make_environment(load_source(config.env.source), config.env)
    return InGraphUnroller(unroller=unroller, environment=environment, in_loop=in_loop)


def unroll_twice(acting, seed=1):
    """Two unrolls in a row, as one, and the episodes that ended."""
    agent, indices = acting.unroller.agent, jnp.arange(5, 8, dtype=jnp.uint32)
    params = agent.actor_params(agent.init(jax.random.key(0)))
    state, rows = acting.init(seed, indices), []
    unroll = jax.jit(acting.unroll, static_argnums=0)
    for version in range(2):
        trajectory, ended, state = unroll(seed, indices, params, jnp.int32(version), state)
        rows.append((trajectory, ended))
    return rows


class TestUnroll:
    def test_rows_are_what_the_environment_did_and_episodes_what_it_earned(self):
        config = anakin_config(env__max_episode_steps=LIMIT, actors__unroll_length=12)
        acting = make_unroller(config)
        (first, ended), (second, ended_later) = unroll_twice(acting)
        opens = np.concatenate([first.first, second.first[1:]])  # The last row of one is row 0 of the next.
        np.testing.assert_array_equal(first.first[-1], second.first[0])
        np.testing.assert_array_equal(first.observation[-1], second.observation[0])
        np.testing.assert_array_equal(first.reward[-1], second.opening_reward)
        assert opens[0].all()
        assert (first.params_version, second.params_version)[1].min() == 1
        discounts, rewards = (
            np.concatenate([getattr(part, name) for part in (first, second)]) for name in ("discount", "reward")
        )
        found = []
        for env in range(3):
            for start, end in itertools.pairwise(np.flatnonzero(opens[:, env])):
                length = end - start - 1  # The step that resets is none of the episode's.
                assert rewards[start : end - 1, env].sum() == length
                assert rewards[end - 1, env] == 0
                assert discounts[start : end - 1, env].all() == (length == LIMIT)
                found.append(length)
        counted = np.concatenate([part.lengths for part in (ended, ended_later)])
        np.testing.assert_array_equal(
            np.concatenate([part.returns for part in (ended, ended_later)])[counted > 0], counted[counted > 0]
        )
        assert len(found) >= 6
        assert not Counter(found) - Counter(counted[counted > 0].tolist())
        assert 0 <= (counted > 0).sum() - len(found) <= 3  # A last one that no reset has followed yet.

    def test_every_step_of_every_environment_has_a_key_of_its_own(self):
        def words(key):
            data = jax.random.key_data(key)
            return jnp.concatenate([data >> 16, data & 0xFFFF]).astype(jnp.float32)

        def step(key, state, action):
            return Transition(state, words(key), 0.0, False, False)

        acting = dataclasses.replace(
            make_unroller(anakin_config()), environment=make_many(lambda key: (jnp.zeros(()), words(key)), step)
        )
        (first, _), (second, _) = unroll_twice(acting)
        seen = np.concatenate([first.observation, second.observation[1:]]).reshape(-1, 4)
        assert len(np.unique(seen, axis=0)) == len(seen) == (1 + 4 + 4) * 3

    def test_a_loop_does_what_the_steps_do_one_after_the_other(self):
        config = anakin_config(network__frame_stack=2)
        loop, steps = (unroll_twice(make_unroller(config, in_loop=in_loop)) for in_loop in (True, False))
        for one, other in zip(jax.tree.leaves(loop), jax.tree.leaves(steps), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


CONFIG = anakin_config()


@pytest.fixture(scope="module")
def programs():
    """Compiled once for the runs of `CONFIG` on one device."""
    return assemble(CONFIG, jax.devices()[:1]).compile()


@pytest.fixture(scope="module")
def reference(programs):
    """Outcome and rows of such a run."""
    return run(CONFIG, programs=programs)


class TestRun:
    def test_the_newest_parameters_always_act(self, reference):
        outcome, rows = reference
        assert outcome.finished
        assert [row["learner_steps"] for row in rows] == list(range(1, 11))
        assert [(row["lag/mean"], row["lag/max"], row["lag/0"]) for row in rows] == [(0, 0, 1)] * 10
        assert outcome.counters.env_steps == rows[-1]["env_steps"] == 10 * 8 * 4
        assert len({row["fingerprint/batch"] for row in rows}) == 10
        assert outcome.episodes > 0
        assert rows[-1]["time/learner/learn"] > 0

    def test_how_many_updates_a_call_makes_changes_nothing(self):
        config = {"log__every_updates": 5, "total_env_steps": 12 * 8 * 4, "env__max_episode_steps": LIMIT}
        results = [run(anakin_config(topology__updates_per_call=num, **config)) for num in (3, 10)]
        rows = [facts(rows) for _, rows in results]
        assert [row["learner_steps"] for row in rows[0]] == [1, 5, 10, 12]
        assert rows[0] == rows[1]
        assert rows[0][-1]["episode/count"] > 8

    @pytest.mark.slow
    def test_another_seed_gives_another_series_on_any_number_of_devices(self, reference):
        _, rows = run(anakin_config(seed=2), num_devices=8)
        assert not {row["fingerprint/batch"] for row in reference[1]} & {row["fingerprint/batch"] for row in rows}

    def test_any_number_of_devices_learns_from_the_same_experience(self, reference):
        (one, rows), (eight, other_rows) = reference, run(CONFIG, num_devices=8)
        assert [row.get("episode/count") for row in rows] == [row.get("episode/count") for row in other_rows]
        for x, y in zip(jax.tree.leaves(one.state), jax.tree.leaves(eight.state), strict=True):
            np.testing.assert_allclose(*(_numbers(leaf) for leaf in (x, y)), atol=1e-5)

    def test_every_environment_of_the_job_is_another(self, programs):
        opened = programs.learner.init(1).environments.timestep.observation
        assert len(np.unique(opened, axis=0)) == CONFIG.actors.num_envs

    def test_a_loss_that_is_not_finite_ends_the_run_with_its_update(self, programs):
        state = programs.learner.init(1)
        params = jax.tree.map(lambda x: x.at[0].set(jnp.nan), state.params)
        start = Snapshot(state=state.replace(params=params), counters=Counters(learner_steps=3), episodes={})
        with pytest.raises(
            RuntimeError, match=r"Update 4 is not finite: loss/total is nan.*agent.optimizer.learning_rate"
        ):
            run(CONFIG, programs=programs, start=start)

    def test_a_call_that_takes_too_long_is_named(self):
        """An update of 160,000 steps takes longer than a millisecond anywhere."""
        config = anakin_config(actors__unroll_length=20_000, actors__timeout_s=1e-3)
        with pytest.raises(TimeoutError, match=r"waited 0 s for updates 1 to 1 to end .*topology.updates_per_call"):
            run(config)


def _numbers(leaf):
    key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.device_get(jax.random.key_data(leaf) if key else leaf), np.float64)


class TestResume:
    OVERRIDES = types.MappingProxyType(
        {
            "total_env_steps": 12 * 8 * 4,
            "checkpoint__every_updates": 4,
            "checkpoint__keep": 99,
            "log__tensorboard": False,
            "env__max_episode_steps": LIMIT,
            "network__core": "lstm",
            "network__core_size": 8,
            "network__last_action": True,
        }
    )

    def train(self, folder, **options):
        return train.train(anakin_config(**self.OVERRIDES), workdir=str(folder), **options)

    def test_stopping_anywhere_and_going_on_changes_nothing(self, tmp_path, caplog):
        straight = self.train(tmp_path / "straight")
        stops = iter([0] * 7 + [75] * 99)
        stopped = self.train(tmp_path / "stopped", stop_code=lambda: next(stops))
        assert not stopped.finished
        assert stopped.stop_code == 75
        assert 4 < stopped.counters.learner_steps < 8  # Between two checkpoints.
        assert stopped.counters.learner_steps in whole_steps(tmp_path / "stopped")
        outcome = self.train(tmp_path / "stopped")
        assert outcome.finished
        assert facts(read_rows(tmp_path / "stopped")) == facts(read_rows(tmp_path / "straight"))
        jax.tree.map(np.testing.assert_array_equal, *map(to_arrays, (straight.state, outcome.state)))
        assert facts(read_rows(tmp_path / "straight"))[-1]["episode/count"] > 8
        caplog.set_level("INFO", logger="absl")
        assert self.train(tmp_path / "straight").finished
        assert "This run is finished: it has 384 env steps, in 12 updates." in caplog.text

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "ring",
        [
            {"agent": "impact", "replay__batches": 3, "replay__uses": 2},
            {
                **{"agent": "r2d2", "agent__burn_in": 1, "agent__length": 1},
                **{"agent__n_steps": 1, "actors__num_envs": 32, "actors__unroll_length": 1, "replay__groups": 8},
                **{"replay__capacity": 160, "replay__batch": 16, "replay__min_steps": 100},
            },
            {
                **{"env_id": "Pendulum-v1", "agent": "sac", "agent__random_steps": 100},
                **{"network__squash_actions": True, "network__core": "none", "network__last_action": False},
                **{"actors__num_envs": 32, "actors__unroll_length": 1, "replay__groups": 8, "replay__ratio": 1.0},
                **{"replay__capacity": 160, "replay__batch": 16, "replay__min_steps": 100},
            },
            {
                **{"agent": "rainbow", "agent__auxiliary__kind": "features", "agent__auxiliary__steps": 2},
                **{"network__core": "none", "actors__num_envs": 32, "actors__unroll_length": 1, "replay__groups": 8},
                **{"replay__capacity": 160, "replay__batch": 16, "replay__min_steps": 100},
            },
        ],
        ids=["batches", "sequences", "critics", "atoms"],
    )
    def test_so_it_does_with_a_ring(self, tmp_path, monkeypatch, caplog, ring):
        monkeypatch.setattr(TestResume, "OVERRIDES", {**self.OVERRIDES, **ring})
        self.test_stopping_anywhere_and_going_on_changes_nothing(tmp_path, caplog)

    @pytest.mark.slow
    def test_evaluations_have_their_rows(self, tmp_path):
        options = {"evaluate__every_updates": 6, "evaluate__episodes": 4}
        train.train(anakin_config(**self.OVERRIDES, **options), workdir=str(tmp_path))
        rows = [row for row in read_rows(tmp_path) if "evaluate/return" in row]
        assert [(row["learner_steps"], row["evaluate/episodes"]) for row in rows] == [(6, 4), (12, 4)]


@pytest.mark.slow
def test_keys_in_an_environments_state_survive_a_checkpoint():
    def reset(key):
        return {"noise": key, "time": 0}, jnp.zeros(4)

    def step(key, state, action):
        noise, _ = jax.random.split(state["noise"])
        return Transition({"noise": noise, "time": state["time"] + 1}, jnp.zeros(4), 0.0, False, state["time"] > 3)

    config = anakin_config()
    agent, spec = short_runs.make_agent(config)
    environment: JaxEnvironment = make_many(reset, step)
    learner = FusedLearner(config, agent, environment, spec, make_topology(config.topology, jax.devices()[:1]))
    state, _ = learner.run(learner.init(1), 3)
    arrays = to_arrays(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), arrays) == jax.tree.map(
        lambda x: (x.shape, x.dtype), to_array_shapes(learner.state_shape)
    )
    again = from_arrays(arrays, learner.state_shape)
    assert isinstance(again, FusedState)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(_numbers(x), _numbers(y))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"env__source": "envpool"}, "env.source='envpool' steps its environments on the host .*placement=sebulba"),
        ({"actors__num_envs": 12}, "actors.num_envs=12 does not divide over 8 devices .*Use a multiple of 8"),
        ({"topology__actor_devices_per_process": 1}, "topology.actor_devices_per_process=1 has no meaning with"),
        ({"topology__placement": "anakim"}, "topology.placement='anakim' is not known; did you mean 'anakin'"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(overrides, message):
    with pytest.raises(ConfigError, match=message):
        assemble(
            short_runs.make_config(
                "CartPole-v1", **{"env__source": "gymnax", "topology__placement": "anakin"} | overrides
            )
        )


@pytest.mark.slow
def test_the_host_steps_jax_environments_for_actor_threads():
    outcome, rows = run(short_runs.make_config("CartPole-v1", env__source="gymnax"))
    assert outcome.finished
    assert [row["lag/max"] for row in rows] == [0] + [1] * 9


@pytest.mark.parametrize(
    ("done", "limit", "expected"), [(0, 10, 1), (1, 10, 3), (4, 10, 4), (4, 3, 3), (8, 10, 2), (10, 10, 2), (24, 9, 1)]
)
def test_a_call_ends_where_the_host_has_something_to_do(done, limit, expected):
    config = anakin_config(
        log__every_updates=4, checkpoint__every_updates=10, evaluate__every_updates=0, total_env_steps=25 * 8 * 4
    )
    counters = Counters(learner_steps=done, env_steps=done * 8 * 4)
    assert updates_to_next_stop(config, counters, limit) == expected
