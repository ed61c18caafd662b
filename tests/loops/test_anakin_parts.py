"""Environments in the compiled program whose observations have parts and a mask, and whose actions are of two kinds."""

import pytest

from podrl import train
from podrl.envs.workers.calls import EnvFailure
from tests.processes import read_rows
from tests.short_runs import make_config

pytestmark = pytest.mark.usefixtures("compiled_once")


def config_of(env_id, **overrides):
    defaults = {
        **{"env__source": "tests.envs.jax_sides", "topology__placement": "anakin", "network__encoder": "minatar"},
        **{"network__hidden_sizes": (8,), "actors__num_envs": 8, "actors__unroll_length": 4},
        **{"log__tensorboard": False},
    }
    return make_config(env_id, **{**defaults, **overrides})


@pytest.mark.parametrize(
    "changes",
    [{}, *(pytest.param(each, marks=pytest.mark.slow) for each in ({"on_nonfinite": "skip"}, {"topology__seeds": 2}))],
)
def test_a_mask_that_allows_nothing_ends_the_run_and_is_named(tmp_path, changes):
    """Episodes have four steps and a reset; the third observation of eight environments is in the first unroll."""
    of_seed = " of seed 1" if changes.get("topology__seeds") else ""
    message = rf"^Update 1{of_seed}: in 8 steps the action mask of env.id='stuck' allows no action\."
    with pytest.raises(EnvFailure, match=message):
        train.train(config_of("stuck", **changes), workdir=str(tmp_path))


@pytest.mark.parametrize("env_id", [pytest.param("sides", marks=pytest.mark.slow), "aim"])
def test_it_is_evaluated_while_it_learns(tmp_path, env_id):
    """What is forbidden would earn 100."""
    config = config_of(env_id, evaluate__every_updates=5, evaluate__episodes=4, total_env_steps=10 * 8 * 4)
    assert train.train(config, workdir=str(tmp_path)).finished
    rows = read_rows(tmp_path)
    returns = [row["evaluate/return"] for row in rows if "evaluate/return" in row]
    assert len(returns) == 2
    assert 0 <= min(returns) <= max(returns) <= 4
    trained = [row["episode/return"] for row in rows if row.get("episode/return") is not None]
    assert 0 <= min(trained) <= max(trained) <= 4
