"""The whole loop on real environments: lag, reproducibility, failures, topologies."""

import dataclasses
import random
import threading
import time

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.config.config import ConfigError, TopologyConfig
from podrl.experience.actors import ActorError
from podrl.experience.layout import Layout, make_layout
from podrl.experience.unroll import Unroller
from podrl.mesh import make_topology
from podrl.ops.fingerprint import extend
from podrl.ops.keys import LEARN, purpose_key
from tests.short_runs import make_agent, make_config, run, scripted_config

pytestmark = pytest.mark.usefixtures("compiled_once")


def fingerprints(rows):
    return [row["fingerprint"] for row in rows]


def test_the_lag_is_zero_once_and_then_exactly_one():
    outcome, rows = run(make_config())
    assert outcome.finished
    assert [row["learner_steps"] for row in rows] == list(range(1, 11))
    assert [row["lag/mean"] for row in rows] == [row["lag/max"] for row in rows] == [0] + [1] * 9
    assert [(row["lag/0"], row["lag/1"]) for row in rows] == [(1, 0)] + [(0, 1)] * 9


def test_counters_and_rates_are_the_learners():
    outcome, rows = run(make_config("Breakout-v5", network__encoder="nature", network__frame_stack=4), num_devices=1)
    assert outcome.counters.env_steps == 10 * 8 * 4
    assert outcome.counters.frames == 4 * outcome.counters.env_steps
    assert rows[-1]["env_steps"] == outcome.counters.env_steps
    assert rows[-1]["frames_per_second"] == pytest.approx(4 * rows[-1]["env_steps_per_second"])


def test_steps_that_only_reset_are_told_apart():
    _, rows = run(scripted_config({"episode_lengths": (3,)}, total_env_steps=2 * 8 * 4))
    assert [(row["env_steps"], row["data/transitions"]) for row in rows] == [(32, 24), (64, 24)]  # The fourth resets.


def test_total_env_steps_is_rounded_up_to_whole_updates():
    outcome, _ = run(make_config(total_env_steps=33))
    assert (outcome.counters.learner_steps, outcome.counters.env_steps) == (2, 64)


def random_delay(update):
    time.sleep(random.choice((0, 0, 0.05)))


class TestFingerprints:
    @pytest.mark.parametrize(("num_devices", "lag"), [(1, 1), (4, 1), (4, 4)])
    def test_random_delays_in_every_thread_change_nothing(self, num_devices, lag):
        options = {"actors__threads_per_device": 2, "actors__num_envs": 16, "total_env_steps": 640, "actors__lag": lag}
        _, quick = run(make_config(**options), num_devices)
        _, slow = run(make_config(env__source="tests.envs.delayed", **options), num_devices, before_update=random_delay)
        assert fingerprints(quick) == fingerprints(slow)
        assert len(set(fingerprints(quick))) == len(quick)

    @pytest.mark.slow
    def test_a_free_run_keeps_its_lag_within_the_bound(self):
        options = {"actors__threads_per_device": 2, "actors__num_envs": 16, "total_env_steps": 2560}
        config = make_config(env__source="tests.envs.delayed", determinism="free", actors__max_lag=3, **options)
        _, rows = run(config, before_update=random_delay)
        lags = [row["lag/max"] for row in rows]
        assert max(lags) <= 3
        assert len(set(lags)) > 1  # Not fixed: it follows the timing.

    def test_another_seed_gives_another_series(self):
        _, a = run(make_config())
        _, b = run(make_config(seed=2))
        assert not set(fingerprints(a)) & set(fingerprints(b))

    def test_the_chain_goes_through_every_nth_update_and_other_rows_only_show_it(self):
        _, every = run(make_config())
        _, rows = run(make_config(log__every_updates=3))
        assert [row["learner_steps"] for row in rows] == [1, 3, 6, 9, 10]

        def chain_of(*updates):
            chain = "0" * 16
            for row in (every[update - 1] for update in updates):
                chain = extend(chain, row["fingerprint/params"], row["fingerprint/batch"])
            return chain

        expected = [chain_of(1), chain_of(3), chain_of(3, 6), chain_of(3, 6, 9), chain_of(3, 6, 9, 10)]
        assert fingerprints(rows) == expected

    def test_rows_are_equal_but_for_time(self):
        _, a = run(make_config())
        _, b = run(make_config())
        for x, y in zip(a, b, strict=True):
            for name in x:
                if not name.startswith("time/") and "per_second" not in name:
                    assert x[name] == y[name], name


def test_any_topology_learns_from_the_same_experience():
    """Environments and their noise are seeded by their index in the job, whatever thread and device they land on."""
    config = make_config(agent__optimizer__name="adam", agent__optimizer__epsilon=1e-3)
    reference, _ = run(config, num_devices=1)
    two_threads = dataclasses.replace(config.actors, threads_per_device=2, pools_per_thread=1)

    def split(actors, learners):
        topology = TopologyConfig(actor_devices_per_process=actors, learner_devices_per_process=learners)
        return dataclasses.replace(config, topology=topology)

    layouts = [
        (dataclasses.replace(config, actors=two_threads), 1),
        (split(1, 1), 2),
        (split(2, 2), 4),
        (split(1, 4), 5),
        (split(4, 1), 4),
    ]
    for other, devices in layouts:
        outcome, rows = run(other, num_devices=devices)
        assert rows[-1]["lag/max"] == 1
        for x, y in zip(jax.tree.leaves(reference.state.params), jax.tree.leaves(outcome.state.params), strict=True):
            np.testing.assert_allclose(jax.device_get(x), jax.device_get(y), atol=1e-5)


def test_every_environment_and_key_is_its_own_over_the_whole_job():
    layout = Layout(num_actors=3, pools_per_actor=2, envs_per_pool=5, num_processes=4)
    indices = np.concatenate([layout.env_indices(p, a, q) for p in range(4) for a in range(3) for q in range(2)])
    assert sorted(indices) == list(range(4 * 3 * 2 * 5))
    config = make_config()
    agent, spec = make_agent(config)
    unroller = Unroller(agent=agent, spec=spec, unroll_length=4, num_envs=len(indices))
    env_keys = unroller.init(config.seed, jnp.asarray(indices), jnp.int32(0)).keys
    steps = jnp.arange(50)
    acting = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)), in_axes=(0, None))(env_keys, steps)
    learning = agent.init(purpose_key(config.seed, LEARN)).key
    used = [env_keys, acting, learning, jax.random.split(learning, 50), purpose_key(config.seed, LEARN)]
    words = np.concatenate([np.asarray(jax.random.key_data(keys)).reshape(-1, 2) for keys in used])
    assert len(np.unique(words, axis=0)) == len(words)


def test_environments_that_do_not_divide_are_refused_with_the_numbers():
    config = make_config(actors__num_envs=9)
    with pytest.raises(ConfigError, match=r"actors.num_envs=9 does not divide over 4 pools .*Use a multiple of 8"):
        make_layout(config, make_topology(config.topology, jax.devices()[:4]))


class TestFailures:
    def test_an_environment_that_raises_ends_the_run_with_its_error(self):
        start = time.monotonic()
        with pytest.raises(ActorError, match="actor 0 failed: RuntimeError: scripted failure at step 100") as caught:
            run(scripted_config({"raise_at_step": 100}, total_env_steps=10_000))
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert time.monotonic() - start < 20

    def test_an_environment_that_hangs_is_named(self):
        with pytest.raises(TimeoutError, match=r"learner waited 2 s for a rollout: actor 0 has been in 'env' for"):
            run(scripted_config({"hang_at_step": 20}, actors__timeout_s=2.0))

    @pytest.mark.slow
    def test_a_slow_learner_is_named_by_the_actor(self):
        def slow_save(snapshot):
            time.sleep(4.0)

        config = scripted_config({"sleep_s": 0.0}, actors__timeout_s=1.0, checkpoint__every_updates=2)
        with pytest.raises(ActorError, match=r"actor 0 waited 1 s for (parameters \d from )?the learner"):
            run(config, save=slow_save)

    def test_no_thread_is_left(self):
        before = set(threading.enumerate())
        with pytest.raises(ActorError):
            run(scripted_config({"raise_at_step": 7}))
        assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("actor ")]


def test_stopping_early_keeps_what_was_learned():
    saved = []
    asked = iter([False] * (1 + 3) + [True] * 10)
    outcome, rows = run(
        make_config(),
        should_stop=lambda: next(asked),
        give_up=lambda: False,
        save=lambda s: saved.append(s.counters),
    )
    assert not outcome.finished
    assert outcome.counters.learner_steps == 3
    assert saved == [outcome.counters]
    assert [row["learner_steps"] for row in rows] == [1, 2, 3]


def test_the_last_update_of_a_stopped_run_has_a_row():
    asked = iter([False] * (1 + 7) + [True] * 10)
    outcome, rows = run(make_config(log__every_updates=5), should_stop=lambda: next(asked), give_up=lambda: False)
    assert [row["learner_steps"] for row in rows] == [1, 5, 7]
    assert outcome.env_steps_per_second > 0


def test_a_run_that_is_told_to_stop_while_an_update_runs_starts_no_other():
    begun = []
    outcome, _ = run(make_config(), before_update=begun.append, should_stop=lambda: begun[-1:] == [4])
    assert begun == [1, 2, 3, 4]  # Told when it was to take the rollouts of the fourth, with the third under way.
    assert outcome.counters.learner_steps == 3


def test_a_run_that_is_stopped_before_it_starts_saves_nothing():
    saved = []
    outcome, rows = run(make_config(), should_stop=lambda: True, save=lambda s: saved.append(s.counters))
    assert (outcome.finished, outcome.counters.learner_steps, rows, saved) == (False, 0, [], [])


def test_checkpoints_come_at_their_interval_and_at_the_end_once():
    saved = []
    run(make_config(checkpoint__every_updates=4), save=lambda s: saved.append(s.counters.learner_steps))
    assert saved == [4, 8, 10]
    saved.clear()
    run(make_config(checkpoint__every_updates=5), save=lambda s: saved.append(s.counters.learner_steps))
    assert saved == [5, 10]


def test_time_shares_sum_to_one():
    _, rows = run(make_config())
    for who in ("learner", "actors"):
        assert sum(value for name, value in rows[-1].items() if name.startswith(f"time/{who}/")) == pytest.approx(1)
