"""What the simulation needs to know of a config's host, measured on this machine with the run's own parts.

Each kind of work is timed alone, with wall clock and CPU clock, and what differs from call to call call by call: a
pool's step (the whole pool's, stragglers included), an actor thread's turn with all that it costs the thread, the end
of an unroll, the transfer. An update, with the way of its parameters to actors, is the benchmark's stage of learning.
The environments play under the first, random policy.

Left out: what neighbours on the same machine take away while this is measured (take a quiet moment; the load average is
kept); what is different when work of several kinds runs at once, beyond the cores that it shares; reductions between
hosts (`Interconnect`); checkpoints.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import json
from pathlib import Path
import time
from typing import Any, Self

from absl import logging
import jax
import numpy as np

from podrl.config.config import Config, check
from podrl.envs.pools.checks import check_timestep
from podrl.envs.source import Pool
from podrl.experience.episodes import EpisodeTracker
from podrl.experience.transfer import rollout_to_learner
from podrl.performance.benchmark.instruments import Clocks, StageTime, describe_machine
from podrl.performance.benchmark.stages import Parts, make_parts, open_pools, record_rollouts, time_learn
from podrl.performance.benchmark.workers import check_stages
from podrl.performance.planning.distributions import HostWork
from podrl.performance.planning.system import HostLoad
from podrl.runtime.tool import reading_file

_WARMUP_CALLS = 3
_FEWEST_CALLS = _WARMUP_CALLS + 5  # However long they take.
_NUMBERS = ("cores", "env_threads", "reductions", "gradient_bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurements:
    """A config's host as it was measured."""

    host: HostLoad
    cores: int  # of this machine
    env_threads: int  # of each pool
    reductions: int  # optimizer steps in an update, each with an all-reduce between hosts
    gradient_bytes: int  # that each all-reduce sums up
    facts: Mapping[str, Any]  # config and machine, for people

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        host = {name: value for name, value in vars(self.host).items() if not isinstance(value, HostWork)}
        works = {name: work.to_json() for name, work in self.host.works.items()}
        return {"host": host, "works": works, **{name: getattr(self, name) for name in (*_NUMBERS, "facts")}}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` made.

        Raises:
            ValueError: if it is something else; or KeyError, TypeError or ConfigError, which is a ValueError.
        """
        works: dict[str, Any] = {name: HostWork.from_json(work) for name, work in found["works"].items()}
        host = HostLoad(**found["host"], **works)
        return cls(host=host, **{name: found[name] for name in (*_NUMBERS, "facts")})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file of which `to_json` made the key `measurements`."""
        with reading_file("--measurements", path, "--measure --json"):
            return cls.from_json(json.loads(path.read_text())["measurements"])


def measure_host(config: Config, seconds: float) -> Measurements:
    """Measures the host of a job of this config in one process."""
    check(
        config.topology.placement == "sebulba",
        f"Found topology.placement={config.topology.placement!r}, where nothing crosses between host and device; the "
        "simulation is of topology.placement=sebulba.",
    )
    check_stages(config)
    machine = describe_machine()
    logging.info("compiling")
    parts = make_parts(config)
    logging.info("measuring: the learner")
    learned = time_learn(parts, record_rollouts(parts), seconds)
    logging.info("measuring: environments and actor")
    with contextlib.ExitStack() as stack:
        start = Clocks.now()
        pools = open_pools(parts, parts.source, stack)
        timesteps = [pool.reset() for thread in pools for pool in thread]
        opened = start.sample(len(timesteps), Clocks.now())
        works = _time_turns(parts, pools[0][0], timesteps[0], seconds)
    threads, updates = parts.layout.num_actors, learned.env_steps / config.env_steps_per_update
    host = HostLoad(
        threads=threads,
        pools=parts.layout.pools_per_actor,
        envs_per_pool=parts.layout.envs_per_pool,
        unroll_length=config.actors.unroll_length,
        shares_device=parts.shares_device,
        update=HostWork.of(learned.wall_s / updates, learned.core_s / learned.wall_s),
        open=HostWork.of(opened.wall_s / threads, opened.core_s / opened.wall_s),
        **works,
    )
    return Measurements(
        host=host,
        cores=machine["cores"],
        env_threads=parts.env_threads,
        reductions=config.optimizer_steps_per_update,
        gradient_bytes=parts.parameter_bytes,
        facts={"config": config.name, "env": config.env.id, "topology": parts.topology.describe(), **machine},
    )


def _time_turns(parts: Parts, pool: Pool, timestep: Any, seconds: float) -> dict[str, HostWork]:
    """Steps, turns, ends of unrolls and transfers, one pool of one thread with nothing beside it."""
    device = parts.actor_devices[0]
    acting, learner = parts.programs.acting[device], parts.programs.learner
    params = jax.block_until_ready(jax.device_put(learner.actor_params(learner.init(parts.config.seed)), device))
    version, step = jax.device_put((np.int32(0), np.int32(0)), device)
    state = acting.init(jax.device_put(parts.layout.env_indices(0, 0, 0), device), step)
    tracker = EpisodeTracker(parts.layout.envs_per_pool)
    samples: dict[str, list[StageTime]] = {name: [] for name in ("env", "act", "finish", "transfer")}
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or min(len(samples[name]) for name in ("env", "finish")) < _FEWEST_CALLS:
        for _ in range(parts.config.actors.unroll_length):
            begun = Clocks.now()
            action, state = acting.act(params, version, state, jax.device_put(timestep, device))
            pool.send(np.asarray(action))
            sent = Clocks.now()
            timestep = pool.recv()
            received = Clocks.now()
            check_timestep(timestep, acting.timestep, pool)
            tracker.step(timestep.reward, timestep.discount, timestep.first)
            before, after = begun.sample(1, sent), received.sample(0, Clocks.now())
            turn = StageTime(env_steps=1, wall_s=before.wall_s + after.wall_s, core_s=before.core_s + after.core_s)
            samples["act"].append(turn)
            samples["env"].append(sent.sample(1, received))
        begun = Clocks.now()
        trajectory, state = acting.finish(state, jax.device_put(timestep, device))
        moved = rollout_to_learner(trajectory, parts.topology.local_learner)
        jax.block_until_ready(state)
        finished = Clocks.now()
        jax.block_until_ready(moved)
        samples["finish"].append(begun.sample(1, finished))
        samples["transfer"].append(finished.sample(1, Clocks.now()))
    works = {}
    for name, found in samples.items():
        walls, core_s = zip(*((each.wall_s, each.core_s) for each in found[_WARMUP_CALLS:]), strict=True)
        works[name] = HostWork.of(walls, sum(core_s) / sum(walls))
    works["transfer"] = works["transfer"].scaled(parts.layout.pools_per_actor)  # A thread's rollouts share a link.
    return works
