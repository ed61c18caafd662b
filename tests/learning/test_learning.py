"""Real learning on small tasks: the return, and not the loss, is what counts."""

import pytest

from podrl.assembly import resolve
from podrl.commandline import load_config, override
from tests.runs import run


def learn(name, *overrides):
    config = override(load_config(f"configs/{name}.py"), list(overrides))
    outcome, _ = run(resolve(config))
    return outcome.episode_return


@pytest.mark.parametrize("name", ["impala_catch", "ppo_catch"])
def test_catch_is_solved(name):
    assert learn(name) >= 0.95


@pytest.mark.slow
def test_a_short_lunarlander_flies_better_than_chance():
    """A random policy scores -177."""
    assert learn("impala_lunarlander", "--config.total_env_steps=1_000_000") >= -50


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("impala_lunarlander", 100), ("ppo_lunarlander", 200)])
def test_lunarlander_lands(name, least):
    assert learn(name) >= least


@pytest.mark.slow
def test_a_double_pendulum_is_balanced():
    """A random policy scores 47, one that never lets it fall 9,350."""
    assert learn("ppo_inverted_double_pendulum", "--config.total_env_steps=500_000") >= 3000
