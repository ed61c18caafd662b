"""Real learning on small tasks: the return, and not the loss, is what counts."""

import functools
import math

import jax
import pytest

from podrl.assembly import assemble, resolve
from podrl.assembly import run as run_assembly
from podrl.config.commandline import load_config, override
from podrl.loops.interface import Hooks, SeedRun, Services
from podrl.runtime.interruption import Stop
from tests.short_runs import make_config, run

# Finished episodes before a mean of theirs counts.
EPISODES = 100


def train_until(config, least):
    """Trains until recent episodes return `least`, or to the end; returns their mean then."""
    learned = []

    def look(row):
        if row["episode/count"] >= EPISODES and row["episode/return"] >= least:
            learned.append(row["episode/return"])

    outcome, _ = run(config, hooks={"write_row": look}, should_stop=lambda: int(bool(learned)))
    return learned[0] if learned else outcome.episode_return


def learn(name, *overrides, until=math.inf):
    return train_until(resolve(override(load_config(f"configs/{name}.py"), list(overrides))), until)


@pytest.mark.parametrize("name", ["impala_catch", "ppo_catch", "impact_catch", "pqn_catch", "vmpo_catch"])
def test_catch_is_solved(name):
    assert learn(name, until=0.95) >= 0.95


@pytest.mark.long
def test_a_short_lunarlander_flies_better_than_chance():
    """A random policy scores -177."""
    assert learn("impala_lunarlander", "--config.total_env_steps=1_000_000", until=-50) >= -50


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "least"), [("impala_lunarlander", 100), ("ppo_lunarlander", 200)])
def test_lunarlander_lands(name, least):
    assert learn(name, until=least) >= least


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_double_pendulum_is_balanced():
    """A random policy scores 47, one that never lets it fall 9,350."""
    assert learn("ppo_inverted_double_pendulum", "--config.total_env_steps=500_000", until=3000) >= 3000


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "steps", "least"),
    [
        pytest.param("ppo_cartpole", 500_000, 450, marks=pytest.mark.slow),
        pytest.param("ppo_minatar", 1_500_000, 15, marks=pytest.mark.long),
        pytest.param("impala_minatar", 4_000_000, 15, marks=pytest.mark.long),
        pytest.param("pqn_minatar", 3_000_000, 12, marks=pytest.mark.long),
    ],
)
def test_environments_inside_the_program_are_learned(name, steps, least):
    """Random policies score 22 and 0.5; IMPALA with too little entropy stays at 7."""
    assert learn(name, f"--config.total_env_steps={steps}", until=least) >= least


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_seeds_of_one_program_balance_the_pole():
    config = resolve(override(load_config("configs/ppo_cartpole.py"), ["--config.topology.seeds=3"]))
    parts, best = assemble(config, jax.devices()[:1]), {}

    def look(seed, row):
        if row["episode/count"] >= EPISODES:
            best[seed] = max(best.get(seed, 0), row["episode/return"])

    seeds = [
        SeedRun(
            assembly=alone,
            start=None,
            hooks=Hooks(write_row=functools.partial(look, alone.config.seed)),
            services=Services(),
        )
        for alone in parts.of_each_seed()
    ]
    stop = Stop(code=lambda: int(len(best) == 3 and min(best.values()) >= 450))
    run_assembly(parts, services=Services(stop=stop), seeds=seeds)
    assert sorted(best) == [1, 2, 3]
    assert min(best.values()) >= 450


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_pendulum_is_swung_up_from_replay():
    """A random policy scores -1,300 and the best about -150; the mean has the first episodes in it."""
    assert learn("sac_pendulum", "--config.total_env_steps=30_000", until=-350) >= -350


class TestMemory:
    """A bit that is seen at an episode's start and asked for 20 steps later: 1 if told rightly, else -1."""

    STEPS = "--config.total_env_steps=200_000"

    def test_an_lstm_remembers(self):
        assert learn("ppo_memory", self.STEPS, until=0.9) >= 0.9

    def test_without_one_the_same_agent_can_only_guess(self):
        """The mean of a hundred guesses has a standard deviation of 0.1."""
        assert abs(learn("ppo_memory", self.STEPS, "--config.network.core=none")) < 0.5

    @pytest.mark.slow
    def test_r2d2_learns_to_remember(self):
        """Its actors explore, for a return of 0.87 in the end."""
        assert learn("r2d2_memory", "--config.total_env_steps=100_000", until=0.75) >= 0.75

    @pytest.mark.slow
    def test_impala_learns_to_remember(self):
        assert learn("impala_memory", "--config.total_env_steps=500_000", until=0.9) >= 0.9

    @pytest.mark.slow
    def test_actors_on_the_host_remember(self):
        settings = ("--config.total_env_steps=500_000", "--config.topology.placement=sebulba")
        assert learn("impala_memory", *settings, until=0.9) >= 0.9


class TestParts:
    """An image says where, four times an episode; what a switch beside it says counts as well. Chance is 2 of 4."""

    def learn(self, env, steps, least, **settings):
        defaults = {
            "total_env_steps": steps,
            "env__source": "gymnasium",
            "actors__num_envs": 32,
            "actors__unroll_length": 16,
            "network__encoder": "minatar",
            "network__hidden_sizes": (32,),
            "agent__optimizer__learning_rate": 1e-3,
            "agent__minibatches": 4,
        }
        return train_until(make_config(f"tests.envs.sides:{env}", agent="ppo", **{**defaults, **settings}), least)

    def test_an_image_beside_other_entries_is_seen(self):
        assert self.learn("Sides", 20_000, 3.8) >= 3.8

    def test_what_an_image_means_is_learned_from_the_vector(self):
        assert self.learn("Sides", 40_000, 3.8, env__options={"turned": True}) >= 3.8

    @pytest.mark.parametrize("placement", ["anakin", "sebulba"])
    def test_and_of_jax_environments_with_a_forbidden_action(self, placement):
        """Which would earn 100."""
        settings = {"env__source": "tests.envs.jax_sides", "topology__placement": placement}
        assert 3.8 <= self.learn("", 20_000, 3.8, **settings) <= 4

    def test_a_choice_and_a_number_are_learned_at_once(self):
        """Either of both alone reaches 2."""
        settings = {"network__initial_scale": 0.3, "agent__entropy_cost": 0.001}
        assert self.learn("Aim", 25_000, 2.8, **settings) >= 2.8
