"""What the simulation needs to know of a config's host, measured on this machine with the run's own parts.

Each kind of work is timed alone, call by call, with wall clock and CPU clock: a pool's step (the whole pool's,
stragglers included), an actor thread's turn with all that it costs the thread (from receiving a timestep to sending
actions), the end of an unroll, the transfer, the update, and the way of its parameters to the actors. The environments
play under the first, random policy.

Left out: what neighbours on the same machine take away while this is measured (take a quiet moment; the load average is
kept); whatever is different when work of several kinds runs at once, but for the cores that it shares; reductions
between hosts (`Interconnect`); checkpoints.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import json
from pathlib import Path
import statistics
import time
from typing import Any, Self

import jax
import numpy as np

from podrl.config.config import Config, ConfigError, check
from podrl.envs.pools.checks import check_timestep
from podrl.envs.source import Pool
from podrl.experience.episodes import EpisodeTracker
from podrl.experience.parameters import ParameterStore
from podrl.experience.transfer import join_rollouts, rollout_to_learner
from podrl.performance.benchmark.instruments import Clocks, Sample, describe_machine
from podrl.performance.benchmark.stages import Parts, make_parts, open_pools, record_rollouts
from podrl.performance.planning.distributions import Durations
from podrl.performance.planning.system import HostLoad, HostWork

_WARMUP_CALLS = 3
_LEAST_CALLS = 5  # Beyond those, however long they take.
_LIMIT_S = 600.0
_WORKS = ("env", "act", "finish", "transfer", "update", "publish", "open")
_COUNTS = ("threads", "pools", "envs_per_pool", "unroll_length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurements:
    """A config's host as it was measured.

    Attributes:
        host: its work.
        cores: of this machine.
        env_threads: of each pool.
        reductions: optimizer steps in an update, each with an all-reduce between hosts.
        gradient_bytes: that each all-reduce sums up.
        facts: config and machine, for people.
    """

    host: HostLoad
    cores: int
    env_threads: int
    reductions: int
    gradient_bytes: int
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        host = {name: getattr(self.host, name) for name in (*_COUNTS, "shares_device")}
        works = {name: getattr(self.host, name).to_json() for name in _WORKS}
        rest = {name: getattr(self, name) for name in ("cores", "env_threads", "reductions", "gradient_bytes")}
        return {"host": host, "works": works, **rest, "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` made.

        Raises:
            ValueError: if it is something else; or KeyError, TypeError or ConfigError, which is a ValueError.
        """
        works: dict[str, Any] = {name: HostWork.from_json(found["works"][name]) for name in _WORKS}
        return cls(
            host=HostLoad(**found["host"], **works),
            **{name: found[name] for name in ("cores", "env_threads", "reductions", "gradient_bytes", "facts")},
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file of which `to_json` made the key `measurements`.

        Raises:
            ConfigError: if there is no such file, or it is another; says what is wrong.
        """
        check(path.is_file(), f"--measurements={path}: there is no such file. Make one with --measure --json={path}.")
        try:
            return cls.from_json(json.loads(path.read_text())["measurements"])
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, ConfigError):
                raise ConfigError(f"--measurements={path}: {error}") from None
            raise ConfigError(
                f"--measurements={path} is not what --measure --json writes ({type(error).__name__}: {error}). Make it "
                "anew."
            ) from None


def measure_host(
    config: Config, seconds: float, *, show_phase: Callable[[str], None] = lambda text: None
) -> Measurements:
    """Measures the host of a job of this config in one process.

    Args:
        config: of the run.
        seconds: for the environments and the actor, and again for the learner, about.
        show_phase: told what happens now.

    Raises:
        ConfigError: if the parts of the run do not fit together, or environments are inside the compiled program.
    """
    check(
        config.topology.placement == "sebulba",
        f"Found topology.placement={config.topology.placement!r}, where nothing crosses between host and device; the "
        "simulation is of topology.placement=sebulba.",
    )
    machine = describe_machine()
    show_phase("compiling")
    parts = make_parts(config)
    show_phase("measuring: the learner")
    works = _time_learner(parts, seconds)
    show_phase("measuring: environments and actor")
    with contextlib.ExitStack() as stack:
        start = Clocks.now()
        pools = open_pools(parts, stack)
        timesteps = [pool.reset() for thread in pools for pool in thread]
        opened = start.sample(len(timesteps), Clocks.now())
        works |= _time_turns(parts, pools[0][0], timesteps[0], seconds)
    threads = parts.layout.num_actors
    works["open"] = HostWork.constant(opened.wall_s / threads, opened.core_s / opened.wall_s)
    on_cpu = machine["platform"] == "cpu"
    devices = {*parts.actor_devices}, {*parts.topology.local_learner.devices.flat}
    params = jax.tree.leaves(parts.programs.learner.state_shape.params)
    host = HostLoad(
        threads=threads,
        pools=parts.layout.pools_per_actor,
        envs_per_pool=parts.layout.envs_per_pool,
        unroll_length=config.actors.unroll_length,
        shares_device=not on_cpu and not devices[0].isdisjoint(devices[1]),
        **works,
    )
    return Measurements(
        host=host,
        cores=machine["cores"],
        env_threads=parts.env_threads,
        reductions=config.agent.update_shape.optimizer_steps,
        gradient_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in params),
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
    samples: dict[str, list[Sample]] = {name: [] for name in ("turn", "step", "receive", "finish", "transfer")}
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or _are_few(samples["receive"]) or _are_few(samples["finish"]):
        patience_s = 2 * statistics.median(sample.wall_s for sample in samples["step"]) if samples["step"] else 0.0
        for _ in range(parts.config.actors.unroll_length):
            begun = Clocks.now()
            action, state = acting.act(params, version, state, jax.device_put(timestep, device))
            pool.send(np.asarray(action))
            sent = Clocks.now()
            waits = patience_s > 0 and len(samples["turn"]) % 2 == 1
            if waits:  # Then the pool is done, and receiving is what it costs the thread.
                time.sleep(patience_s)
            asked = Clocks.now()
            timestep = pool.recv()
            received = Clocks.now()
            check_timestep(timestep, acting.timestep, pool)
            tracker.step(timestep.reward, timestep.discount, timestep.first)
            samples["turn"].append(_sum(begun.sample(1, sent), received.sample(0, Clocks.now())))
            samples["receive" if waits else "step"].append((asked if waits else sent).sample(1, received))
        begun = Clocks.now()
        trajectory, state = acting.finish(state, jax.device_put(timestep, device))
        moved = rollout_to_learner(trajectory, parts.topology.local_learner)
        jax.block_until_ready(state)
        finished = Clocks.now()
        jax.block_until_ready(moved)
        samples["finish"].append(begun.sample(1, finished))
        samples["transfer"].append(finished.sample(1, Clocks.now()))
    receive = _typical(samples["receive"])
    works = {
        "act": _work([_sum(sample, receive) for sample in samples["turn"]]),
        "env": _work([_sum(sample, receive, sign=-1) for sample in samples["step"]]),
        "finish": _work(samples["finish"]),
        "transfer": _work(samples["transfer"]),
    }
    works["transfer"] = works["transfer"].scaled(parts.layout.pools_per_actor)  # A thread's rollouts share a link.
    return works


def _time_learner(parts: Parts, seconds: float) -> dict[str, HostWork]:
    """Updates of one batch again and again, and their parameters' way to an actor."""
    learner, devices = parts.programs.learner, parts.topology.local_actor_devices
    trajectories = join_rollouts(record_rollouts(parts), parts.topology)
    parameters = ParameterStore(devices)
    state = jax.block_until_ready(learner.init(parts.config.seed))
    samples: dict[str, list[Sample]] = {"update": [], "publish": []}
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or _are_few(samples["update"]):
        begun, turn = Clocks.now(), len(samples["update"])
        state, metrics = learner.update(state, trajectories)
        jax.block_until_ready((state, metrics))
        updated = Clocks.now()
        parameters.publish(turn, learner.actor_params(state))
        for device in devices:
            parameters.fetch(device, range(turn, turn + 1), timeout_s=_LIMIT_S, who="measurement")
        samples["update"].append(begun.sample(1, updated))
        samples["publish"].append(updated.sample(1, Clocks.now()))
    return {name: _work(found) for name, found in samples.items()}


def _are_few(samples: list[Sample]) -> bool:
    return len(samples) < _WARMUP_CALLS + _LEAST_CALLS


def _work(samples: list[Sample]) -> HostWork:
    samples = samples[_WARMUP_CALLS:]
    walls = [sample.wall_s for sample in samples]
    return HostWork(seconds=Durations.of(walls), cores=sum(sample.core_s for sample in samples) / sum(walls))


def _sum(one: Sample, other: Sample, sign: int = 1) -> Sample:
    """Both together, or what one has beyond the other."""
    return Sample(
        env_steps=one.env_steps,
        wall_s=max(1e-9, one.wall_s + sign * other.wall_s),
        core_s=max(0.0, one.core_s + sign * other.core_s),
    )


def _typical(samples: list[Sample]) -> Sample:
    return Sample(
        env_steps=1,
        wall_s=statistics.median(sample.wall_s for sample in samples),
        core_s=statistics.median(sample.core_s for sample in samples),
    )
