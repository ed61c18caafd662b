"""Numbers of environments' `info` where environments are inside the compiled program: as where actors step them."""

import functools
import logging

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl import train
from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.envs.pools.info_in_graph import InGraphTally, make_in_graph_tally
from podrl.envs.source import load_source, make_environment
from podrl.envs.workers import info_keys
from podrl.envs.workers.info import InfoTally
from tests import short_runs
from tests.processes import read_rows
from tests.short_runs import facts

PREFIX = "episode/info/"
KEYS = ("success", "max:success", "parts/*", "sum:parts/a", "mean:parts/b", "min:parts/b", "odd", "sum:odd")
BY_HAND = {"success": 0, "max:success": 1, "parts/a": 3, "parts/b": -1, "sum:parts/a": 6, "mean:parts/b": -2 / 3}
BY_HAND |= {"min:parts/b": -1, "odd": 3, "sum:odd": 4}


def make_config(placement="anakin", **changes):
    """Eight environments in lock-step, whose episodes last three steps and a reset: as long as an update."""
    settings = {"env__source": "tests.envs.jax_informed", "topology__placement": placement, "log__info_keys": KEYS}
    return short_runs.make_config("informed", **settings | {"log__tensorboard": False} | changes)


def numbers_of(row, prefix=PREFIX):
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


class TestTally:
    STATISTICS = ("max", "mean", "min", "sum", "")

    def test_is_that_of_the_host(self):
        """Over random numbers, some of which are missing, and random episodes of either kind of end."""
        rng, num_envs = np.random.default_rng(0), 7
        keys = tuple(f"{statistic}:x".removeprefix(":") for statistic in self.STATISTICS)
        in_graph = InGraphTally(keys=keys, names=tuple(sorted(keys)), statistics=self.STATISTICS)
        host, state, add = InfoTally(keys, num_envs), in_graph.init(num_envs), jax.jit(in_graph.add)
        ended, pending, num = np.zeros(num_envs, bool), {}, 0
        for _ in range(200):
            first, ended = ended, ~ended & (rng.random(num_envs) < 0.3)
            terminated = ended & (rng.random(num_envs) < 0.5)
            bad = rng.choice([np.nan, np.inf])
            values = np.where(rng.random(num_envs) < 0.4, bad, rng.normal(size=num_envs)).astype(np.float32)
            state, numbers = add(state, {"x": jnp.asarray(values)}, first, first | terminated)
            pending |= host.add_columns({"x": values}, first, ended)
            for env in [env for env in pending if first[env] or terminated[env]]:  # Others show with their reset.
                row = dict(zip(in_graph.names, np.asarray(numbers[env]).tolist(), strict=True))
                found = {name: number for name, number in row.items() if not np.isnan(number)}
                assert found == pytest.approx(pending.pop(env), rel=1e-5, abs=1e-6)
                num += 1
        assert num > 200

    @pytest.mark.parametrize(
        ("key", "options", "said"),
        [
            ("vector", {}, r"'vector' is float32\[3\] in the environment's info; expected a number"),
            ("max:parts", {}, "'parts' is a dictionary in the environment's info; expected a number. Its entries are"),
            (
                "number_*",
                {"many": 101},
                "'number_.' matches more than 100 numbers in the environment's info, such as num",
            ),
        ],
    )
    def test_a_key_that_names_no_number_is_one_line(self, key, options, said):
        with pytest.raises(ConfigError, match=said) as failure:
            assemble(make_config(log__info_keys=(key,), env__options=options), jax.devices()[:1])
        assert "\n" not in str(failure.value)

    def test_a_key_that_matches_nothing_is_warned_of(self, caplog):
        info_keys._warn_once.cache_clear()
        config = make_config(log__info_keys=("sucess", "v*"))
        source = load_source(config.env.source)
        with caplog.at_level(logging.WARNING):
            make = functools.partial(make_in_graph_tally, environment=make_environment(source, config.env))
            assert make(config.log.info_keys, spec=source.make_spec(config.env), num_envs=2) is None
        (line,) = caplog.messages
        assert "matches 'sucess'. It has: " in line


@pytest.fixture(scope="module")
def rows():
    return short_runs.run(make_config())[1]


class TestRows:
    @pytest.mark.parametrize("truncates", [False, True])
    def test_by_hand_and_as_with_actors(self, rows, truncates):
        changes = {"env__options": {"truncates": True}} if truncates else {}
        ours = short_runs.run(make_config(**changes))[1] if truncates else rows
        devices = {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
        _, theirs = short_runs.run(make_config("sebulba", **changes, **devices))
        assert numbers_of(ours[-1]) == pytest.approx(BY_HAND)
        assert [row["episode/count"] for row in ours] == [row["episode/count"] for row in theirs]
        assert [numbers_of(row) for row in ours] == [pytest.approx(numbers_of(row)) for row in theirs]

    def test_any_number_of_devices_has_the_same(self, rows):
        config = make_config(log__info_keys=(*KEYS, "noise", "mean:noise"))
        one, eight = (short_runs.run(config, num_devices)[1] for num_devices in (1, 8))
        assert [numbers_of(row) for row in one] == [numbers_of(row) for row in eight]
        assert len({row[f"{PREFIX}noise"] for row in one}) == len(one)
        assert [{name: numbers_of(row)[name] for name in BY_HAND} for row in one] == [numbers_of(row) for row in rows]

    def test_they_change_nothing_else(self, rows):
        _, without = short_runs.run(make_config(log__info_keys=()))
        assert facts(without) == [{k: v for k, v in row.items() if not k.startswith(PREFIX)} for row in facts(rows)]

    @pytest.mark.parametrize("source", ["gymnax", pytest.param("octax", marks=pytest.mark.slow), "brax"])
    def test_of_others_environments(self, source):
        pytest.importorskip(source)
        known = {"gymnax": ("CartPole-v1", "discount"), "octax": ("brix", "score"), "brax": ("ant", "reward_*")}
        env_id, key = known[source]
        changes = {"env__source": source, "topology__placement": "anakin", "log__info_keys": (key,)}
        config = short_runs.make_config(env_id, **changes)
        names = assemble(config, jax.devices()[:1]).learner.info_names
        assert [name for name in names if name == key or name.startswith("reward_")]


class TestResume:
    CHANGES = {"checkpoint__every_updates": 4, "env__options": {"length": 5}, "total_env_steps": 10 * 8 * 4}  # noqa: RUF012

    def test_a_run_that_was_stopped_in_the_middle_of_episodes_has_the_same(self, tmp_path):
        config = make_config(**self.CHANGES, log__info_keys=(*KEYS, "sum:noise", "max:noise"))
        train.train(config, workdir=str(tmp_path / "straight"))
        stops = iter([0] * 5 + [75] * 99)
        stopped = train.train(config, workdir=str(tmp_path / "stopped"), stop_code=lambda: next(stops))
        assert not stopped.finished
        train.train(config, workdir=str(tmp_path / "stopped"))
        straight = facts(read_rows(tmp_path / "straight"))
        assert facts(read_rows(tmp_path / "stopped")) == straight
        assert len(numbers_of(straight[-1])) == len(BY_HAND) + 2

        others = make_config(**self.CHANGES, log__info_keys=(*KEYS, "sum:noise", "min:noise"))
        with pytest.raises(ConfigError, match=r"has others: .*keep actors\.num_envs, env and log\.info_keys as"):
            train.train(others, workdir=str(tmp_path / "stopped"), accept_changes=True)


def test_evaluations_have_them(tmp_path):
    changes = {"evaluate__every_updates": 5, "evaluate__episodes": 4, "total_env_steps": 5 * 8 * 4}
    train.train(make_config(**changes), workdir=str(tmp_path))
    (row,) = [row for row in read_rows(tmp_path) if "evaluate/return" in row]
    assert numbers_of(row, "evaluate/info/") == pytest.approx(BY_HAND)
