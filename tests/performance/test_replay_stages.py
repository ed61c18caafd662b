"""Replay's stages in the benchmark: what they move, when they begin, and what is made of their times."""

import itertools

import jax
from jax import numpy as jnp
import pytest

from podrl.assembly import assemble
from podrl.experience.schedule import WARMUP_UPDATES
from podrl.learning.replay import make_replay, uncounted_updates, updates_before_learning
from podrl.performance.benchmark import stages, whole_run
from podrl.performance.benchmark.instruments import StageTime
from podrl.performance.benchmark.plain_loop import open_plain_loop
from podrl.performance.benchmark.relations import relate_to_stages
from podrl.performance.benchmark.replay_stages import ReplayStages, open_replay_stages, relate_replay
from podrl.performance.benchmark.report import limit_line, replay_line
from podrl.performance.composition import OF_REPLAY, Overlap
from tests.short_runs import anakin_config, make_config, random_trajectory

SEQUENCES = {
    "agent": "r2d2",
    "agent__burn_in": 4,
    "agent__length": 4,
    "replay__capacity": 8 * 4 * 16,
    "replay__batch": 8,
    "replay__min_steps": 8 * 4 * 5,
}
STEPS = {**SEQUENCES, "agent__starts": "rows", "agent__burn_in": 0, "agent__length": 1, "agent__n_steps": 3}
BATCHES = {"agent": "impact", "replay__batches": 6, "replay__uses": 2}
ONE_DEVICE = {f"topology__{who}_devices_per_process": 1 for who in ("actor", "learner")}
FRAME = 10 * 5 * 4  # Bytes of Catch's frame, of float32.
ROW = 4 + 4 + 4 + 4  # Of an action, a reward, a discount and a version.


def parts_of(config, num_devices=1):
    return assemble(config, jax.devices()[:num_devices])


def test_an_update_inserts_its_rollout_and_samples_its_sequences():
    found = open_replay_stages(parts_of(make_config(**SEQUENCES), 2))
    assert found.inserted_bytes == 8 * (5 * (FRAME + 1) + 4 * ROW + 4 + 4)
    # 4 sequences of 8 rows and a bootstrap row for each 8 x 4 steps; one row before them.
    of_sequence = 10 * (FRAME + 1) + 9 * ROW + 4 + 4 + 4
    assert found.sampled_bytes == 8 * of_sequence
    for name, timer in found.timers.items():
        sample = timer(0.01)
        assert sample.env_steps % (8 * 4) == 0, name
        assert sample.env_steps > 0


@pytest.mark.slow
def test_a_ring_of_batches_samples_whole_batches_inside_a_program_too():
    config = anakin_config(**BATCHES)
    found = open_replay_stages(parts_of(config))
    assert found.sampled_bytes == 2 * (found.inserted_bytes + 8 * 4)  # Each with the weights of its environments.
    assert set(found.timers) == set(OF_REPLAY)
    assert all(timer(0.01).env_steps > 0 for timer in found.timers.values())


def test_a_run_without_replay_has_no_such_stages():
    assert open_replay_stages(parts_of(make_config())) is None


@pytest.mark.parametrize(
    "options", [SEQUENCES, {**SEQUENCES, "replay__min_steps": 0}, STEPS, BATCHES], ids=["least", "live", "rows", "ring"]
)
def test_updates_before_learning_are_those_that_draw_less_than_later_ones(options):
    config = make_config(**options)
    parts = parts_of(config)
    replay = make_replay(config, parts.agent, parts.spec, parts.topology.learner)
    rollouts = random_trajectory(parts.agent, parts.spec, 4, 8, 0)

    @jax.jit
    def update(ring):
        ring, draws = replay.draw(replay.insert(ring, rollouts, jnp.array(True)))
        return ring, jnp.sum(draws.used)

    ring, counts = replay.init(jax.random.key(0)), []
    for _ in range(12):
        ring, count = update(ring)
        counts.append(int(count))
    before = max(index for index, count in enumerate(counts) if count < counts[-1]) + 1
    assert before == updates_before_learning(config) > 0
    assert uncounted_updates(config) == max(WARMUP_UPDATES, before)


def test_a_run_is_measured_from_its_first_update_that_learns_as_much_as_later_ones(monkeypatch):
    parts = stages.make_parts(make_config(**BATCHES, **ONE_DEVICE), jax.devices()[:1])
    update, calls = parts.programs.learner.update, itertools.count()
    monkeypatch.setattr(parts.programs.learner, "update", lambda *state: (next(calls), update(*state))[1])
    found = whole_run.time_end_to_end(parts, seconds=0.0)
    assert found.env_steps == 8 * 4
    assert next(calls) == 5 + 1
    found = stages.time_learn(parts, stages.record_rollouts(parts), 0.0)
    assert found.env_steps == 8 * 4
    assert next(calls) == 7 + 5 + 1


def sample(rate, cores=1.0):
    return StageTime(env_steps=1000, wall_s=1000 / rate, core_s=1000 * cores / rate)


def test_replay_is_a_part_of_learning_and_limited_by_a_copy():
    rates = {"insert": 2000.0, "sample": 500.0, "copy": 1000.0}
    samples = {name: [sample(rate), sample(rate / 2)] for name, rate in rates.items()}
    found = ReplayStages(timers=dict.fromkeys(rates), inserted_bytes=100, sampled_bytes=300, env_steps_per_update=50)
    report = relate_replay(found, samples, [sample(100.0), sample(50.0)])
    # Of 1/1000 s a step for 400 bytes, 100 bytes take 1/4000 s; inserting them takes 1/2000 s.
    assert report["insert_of_copy"] == pytest.approx({"median": 0.5, "min": 0.5, "max": 0.5})
    assert report["sample_of_copy"]["median"] == pytest.approx(0.375)
    assert report["insert_s"] == pytest.approx({"median": 0.0375, "min": 0.025, "max": 0.05})
    assert report["share"]["median"] == pytest.approx(0.25)
    whole = {"learn": [sample(100.0), sample(50.0)], "end_to_end": [sample(80.0), sample(40.0)]}
    overlap = Overlap(several_pools=True, in_turn=False)
    assert relate_to_stages({**samples, **whole}, overlap, 2.0) == relate_to_stages(whole, overlap, 2.0)
    costs = {name: {"core_seconds_per_env_step": {"median": 1.0}} for name in (*rates, "learn", "env")}
    assert limit_line(costs) == limit_line({name: costs[name] for name in ("learn", "env")})
    line = replay_line({"replay": report, "stages": {"learn": {}}})
    assert line.startswith(
        "Replay, in each update: inserts 100 B in 37.50 ms, at 50% (50% to 50%) of the rate of a copy;"
    )
    assert line.endswith("Both take 25.0% (25.0% to 25.0%) of the time of the learning.")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"agent": "pqn"}, {**STEPS, "agent__dueling": False}], ids=["pqn", "apex"])
def test_agents_of_action_values_have_plain_loops_of_their_own(options):
    time_loop = open_plain_loop(parts_of(anakin_config(**options, topology__updates_per_call=4)))
    found = time_loop(0.0)
    assert found.env_steps == 4 * 8 * 4


@pytest.mark.parametrize("core", ["lstm", "none"])
def test_a_loop_with_a_core_or_sequences_is_not_plain(core):
    assert open_plain_loop(parts_of(anakin_config(**SEQUENCES, network__core=core))) is None
