import dataclasses
import logging
import math
import re

import jax
import pytest

from podrl import train
from podrl.agents.impala import AgentConfig
from podrl.config.config import Config
from podrl.experience.layout import Layout
from podrl.mesh import make_topology
from podrl.telemetry.bottleneck import BottleneckFinder, has_rate, suggest_shorter
from podrl.telemetry.bottleneck_rules import advise
from podrl.telemetry.situation import Machine, Situation
from tests import short_runs

LAPTOP = Machine(platform="cpu", cores=2, devices=1, actor_devices=1, learner_devices=1)
GPU = Machine(platform="gpu", cores=16, devices=1, actor_devices=1, learner_devices=1)
GPUS = Machine(platform="gpu", cores=64, devices=8, actor_devices=4, learner_devices=4)
SHARED_GPUS = dataclasses.replace(GPUS, actor_devices=8, learner_devices=8)
KEY = re.compile(r"\b(?:actors|agent|checkpoint|env|log|network|topology)\.\w+")

ACTORS_WORK = {"learner": {"wait_rollouts": 0.62, "learn": 0.38}}
EMULATE = ACTORS_WORK | {"actors": {"env": 0.6, "act": 0.4}}
ACT = ACTORS_WORK | {"actors": {"act": 0.8, "env": 0.2}}
LEARN = {"learner": {"learn": 1.0}, "actors": {"wait_params": 0.67, "act": 0.33}}
BOTH_WAIT = {
    "learner": {"wait_rollouts": 0.5, "learn": 0.5},
    "actors": {"wait_params": 0.5, "env": 0.3, "act": 0.2},
}
NOBODY_WAITS = {"learner": {"learn": 0.95, "wait_rollouts": 0.05}, "actors": {"act": 0.6, "env": 0.4}}


def _learner_beside(**side):
    return {"learner": {"learn": 1 - sum(side.values()), **side}, "actors": {"wait_params": 0.5, "act": 0.5}}


def _situation(threads, machine, *, cores_busy=0.5, others_busy=0.0, act_call_s=0.01, **overrides):
    config = short_runs.make_config(**{"actors__num_envs": 64, "actors__env_threads": 0, **overrides})
    actors = machine.actor_devices * config.actors.threads_per_device
    pools = actors * config.actors.pools_per_thread
    layout = Layout(
        num_actors=actors,
        pools_per_actor=config.actors.pools_per_thread,
        envs_per_pool=config.actors.num_envs // pools,
        num_processes=1,
    )
    shares = {f"time/{who}/{bucket}": share for who, spent in threads.items() for bucket, share in spent.items()}
    steps_per_call = actors * layout.envs_per_pool
    return Situation(
        shares=shares,
        env_steps_per_second=threads["actors"].get("act", 0.0) * steps_per_call / act_call_s,
        cores_busy=cores_busy,
        others_busy=others_busy,
        machine=machine,
        layout=layout,
        config=config,
    )


CASES = {
    "synchronous": (BOTH_WAIT, GPU, {"actors__lag": 0}, "learner waits 50% .*actors.lag=1"),
    "synchronous, free": (BOTH_WAIT, GPU, {"determinism": "free", "actors__max_lag": 0}, "in turn: actors.max_lag=1"),
    "uneven rollouts": (BOTH_WAIT, GPU, {}, r"longer actors.unroll_length.*larger actors.lag \(now 1\)"),
    "long checkpoints": (
        BOTH_WAIT | {"learner": {"wait_rollouts": 0.3, "learn": 0.4, "checkpoint": 0.3}},
        GPU,
        {},
        ": larger checkpoint.every_updates .*actors.unroll_length",
    ),
    "emulators on one of two cores": (EMULATE, LAPTOP, {"actors__env_threads": 1}, "actors.env_threads=0"),
    "emulators with all threads, idle cores": (
        EMULATE,
        LAPTOP,
        {},
        "actors.num_envs.*actors.threads_per_device",
    ),
    "emulators fill the cores": (EMULATE, LAPTOP, {"cores_busy": 0.95}, "95% busy.*: a host with more cores"),
    "nobody acts while they step": (
        EMULATE,
        GPU,
        {"actors__pools_per_thread": 1, "cores_busy": 0.95},
        "actors.pools_per_thread=2",
    ),
    "short act calls": (ACT, LAPTOP, {"act_call_s": 2e-4}, "actors.num_envs.*fewer actors.pools_per_thread"),
    "short act calls on a GPU": (ACT, GPU, {"act_call_s": 5e-4}, "actors.num_envs"),
    "acting is slow on a CPU": (ACT, LAPTOP, {}, "network.hidden_sizes"),
    "acting on a few of many GPUs": (ACT, GPUS, {}, "topology.actor_devices_per_process"),
    "acting behind updates": (ACT, SHARED_GPUS, {}, "topology.learner_devices_per_process=0"),
    "acting on the only GPU": (ACT, GPU, {}, "network.compute_dtype=bfloat16"),
    "transfers": (ACTORS_WORK | {"actors": {"transfer": 0.7, "env": 0.3}}, GPU, {}, ": longer actors.unroll_length"),
    "Python": (ACTORS_WORK | {"actors": {"other": 0.6, "env": 0.4}}, GPU, {}, "actors.num_envs"),
    "too many pools": (
        ACTORS_WORK | {"actors": {"other": 0.6, "env": 0.4}},
        GPU,
        {"actors__pools_per_thread": 4},
        "actors.pools_per_thread",
    ),
    "updates on a CPU": (LEARN, LAPTOP, {"cores_busy": 0.97}, "actors wait 67% .*97% busy.*: .*network.hidden_sizes"),
    "updates on a CPU that others use": (
        LEARN,
        LAPTOP,
        {"cores_busy": 0.5, "others_busy": 0.45},
        "50% busy, 45% with other processes.*: smaller network.hidden_sizes",
    ),
    "updates of ResNet on a CPU": (
        LEARN,
        LAPTOP,
        {"cores_busy": 0.97, "network__encoder": "resnet"},
        "network.encoder=nature",
    ),
    "updates of a part's ResNet on a CPU": (
        LEARN,
        LAPTOP,
        {"cores_busy": 0.97, "network__parts": ("eye: resnet",)},
        "nature instead of resnet in network.parts",
    ),
    "updates of a wide network": (
        LEARN,
        LAPTOP,
        {"cores_busy": 0.97, "network__encoder": "resnet", "network__width": 4},
        r"network.width \(now 4\)",
    ),
    "updates too small for the cores": (LEARN, LAPTOP, {}, ": longer actors.unroll_length .* larger updates"),
    "updates in float32": (LEARN, GPUS, {}, "network.compute_dtype=bfloat16"),
    "updates on half of the GPUs": (
        LEARN,
        GPUS,
        {"network__compute_dtype": "bfloat16"},
        r"topology.learner_devices_per_process \(now 4 of 8\)",
    ),
    "updates in parts": (LEARN, GPU, {"topology__micro_batches": 4}, "topology.micro_batches"),
    "updates, nothing left to change": (
        LEARN,
        GPU,
        {"network__compute_dtype": "bfloat16", "network__encoder": "nature"},
        "more devices",
    ),
    "rows": (_learner_beside(log=0.12), GPU, {}, r"log.every_updates \(now 1\), as log takes it 12%"),
    "checkpoints": (_learner_beside(checkpoint=0.2, log=0.1), GPU, {}, ": larger checkpoint.every_updates"),
    "evaluations": (_learner_beside(evaluate=0.2), GPU, {}, r": larger evaluate.every_updates \(now 0\)"),
    "publishing": (_learner_beside(publish=0.2), GPU, {}, ": longer actors.unroll_length .*publish takes it 20%"),
    "a full CPU": (NOBODY_WAITS, LAPTOP, {"cores_busy": 0.96}, "fill the cores, learn the most.*96% busy"),
    "a full CPU, by emulators": (
        {"learner": {"learn": 0.5, "log": 0.01}, "actors": {"env": 0.9, "act": 0.1}},
        LAPTOP,
        {"cores_busy": 0.96},
        "env the most.*: a host with more cores",
    ),
    "one GPU acts and learns": (NOBODY_WAITS, GPU, {}, "compete.*network.compute_dtype=bfloat16"),
    "all GPUs act and learn": (NOBODY_WAITS, SHARED_GPUS, {}, "compete.*topology.actor_devices_per_process=0"),
    "balanced": (NOBODY_WAITS, GPUS, {}, "^balanced, learner learns 95%"),
    "balanced but for rows": (
        {"learner": {"learn": 0.9, "log": 0.1}, "actors": {"env": 1.0}},
        GPUS,
        {},
        "^balanced.*: larger log.every_updates",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_names_what_helps_by_keys_that_exist(case):
    threads, machine, overrides, expected = CASES[case]
    advice = advise(_situation(threads, machine, **overrides))
    assert re.search(expected, str(advice)), str(advice)
    assert "\n" not in str(advice)
    text = " ".join((str(advice), *advice.remedies))
    for key in KEY.findall(text):
        section, name = key.split(".")
        sections = {field.name: field.type for field in dataclasses.fields(Config)} | {"agent": AgentConfig}
        assert name in {field.name for field in dataclasses.fields(sections[section])}, key


def test_a_learner_that_waits_does_not_hear_of_its_rows():
    threads = {"learner": {"wait_rollouts": 0.6, "learn": 0.2, "log": 0.2}, "actors": {"env": 0.6, "act": 0.4}}
    assert "log." not in str(advise(_situation(threads, GPU)))


class Clock:
    """Seconds that only a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def _row(ended_s, rate=100.0, **learner):
    return {"env_steps_per_second": rate, "time/wall_s": ended_s, "time/actors/env": 1.0} | {
        f"time/learner/{bucket}": share for bucket, share in learner.items()
    }


class TestBottleneckFinder:
    def _finder(self, clock, core_clock, busy_clock=None):
        config = short_runs.make_config()
        topology = make_topology(config.topology, jax.devices()[:1])
        return BottleneckFinder(
            config,
            topology,
            after_s=60.0,
            clock=clock,
            core_clock=core_clock,
            busy_clock=busy_clock or core_clock,
        )

    def test_speaks_once_after_the_minute_about_the_time_since_the_first_row(self):
        clock = Clock()
        finder = self._finder(clock, Clock())
        assert finder.add(_row(1000.0, math.nan, compile=1.0)) is None
        assert finder.add(_row(1045.0, wait_rollouts=0.8, learn=0.2)) is None
        assert finder.add(_row(1059.9, learn=1.0)) is None
        clock.now = 60.0
        advice = finder.add(_row(1060.0, learn=1.0))
        assert advice.startswith("learner waits 60% for rollouts, actors spend 100% in env")  # 0.8 * 45 s of 60 s
        assert "0% busy" in advice
        assert finder.add(_row(1160.0, learn=1.0)) is None

    def test_goes_by_the_clock_of_the_rows_and_by_their_rates(self, monkeypatch):
        """Rows are written later than their updates end, the last of a window by another time than the first."""
        told = []
        monkeypatch.setattr("podrl.telemetry.bottleneck.advise", told.append)
        clock = Clock()
        finder = self._finder(clock, Clock())
        for written_s, row in ((7.0, _row(1.0, math.nan)), (9.0, _row(3.0, math.nan)), (50.0, _row(43.0, 100.0))):
            clock.now = written_s
            assert finder.add(row) is None
        clock.now = 63.5
        finder.add(_row(63.0, 400.0, learn=0.5))
        (situation,) = told
        assert situation.env_steps_per_second == pytest.approx((40 * 100 + 20 * 400) / 60)
        assert situation.share("learner", "learn") == pytest.approx(0.5 * 20 / 60)

    def test_knows_how_busy_the_cores_are(self, monkeypatch):
        monkeypatch.setattr("podrl.telemetry.bottleneck.available_cores", lambda: 4)
        clock, core_clock = Clock(), Clock()
        finder = self._finder(clock, core_clock)
        finder.add(_row(0.0, math.nan, learn=1.0))
        clock.now, core_clock.now = 60.0, 180.0
        assert "(4 cores, 75% busy)" in finder.add(_row(60.0, wait_rollouts=1.0))

    def test_knows_what_others_have_of_them(self, monkeypatch):
        monkeypatch.setattr("podrl.telemetry.bottleneck.available_cores", lambda: 4)
        clock, core_clock, busy_clock = Clock(), Clock(), Clock()
        finder = self._finder(clock, core_clock, busy_clock)
        finder.add(_row(0.0, math.nan, learn=1.0))
        clock.now, core_clock.now, busy_clock.now = 60.0, 120.0, 156.0
        assert "(4 cores, 50% busy, 15% with other processes)" in finder.add(_row(60.0, wait_rollouts=1.0))


def test_a_run_logs_it_once_and_with_the_first_rate_a_shorter_one(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("podrl.telemetry.reporter.BottleneckFinder", lambda *args: BottleneckFinder(*args, after_s=0.0))
    monkeypatch.setattr("podrl.telemetry.reporter.suggest_shorter", lambda config, row: f"rated {row['env_steps']}")
    one_device = {f"topology__{who}_devices_per_process": 1 for who in ("actor", "learner")}
    with caplog.at_level(logging.INFO, logger="absl"):
        train.train(short_runs.make_config(**one_device), workdir=str(tmp_path / "run"))
    messages = [record.getMessage() for record in caplog.records]
    for beginning in ("What limits the speed: ", "rated "):
        assert len([message for message in messages if message.startswith(beginning)]) == 1


@pytest.mark.parametrize(("rate", "long"), [(1e3, False), (1.0, True)])
def test_a_run_that_would_take_days_names_one_that_is_done_in_seconds(rate, long):
    config = short_runs.make_config(total_env_steps=800_000)
    row = {"env_steps": 100_000, "env_steps_per_second": rate}
    assert has_rate(row)
    assert not has_rate(row | {"env_steps_per_second": float("nan")})
    suggestion = suggest_shorter(config, row)
    assert (suggestion is not None) == long
    if suggestion:
        assert suggestion.startswith(
            "At this rate the run takes 8 d 2 h more. For a first look, --config impala_catch "
        )
