"""What is simulated: the work of one host, how many hosts there are, and what joins them.

Every host has the same environments, actor threads and devices, so a job of N hosts has N times the environments of one
(weak scaling); only the speed of a host's cores may differ.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from podrl.config.config import check
from podrl.performance.planning.distributions import HostWork
from podrl.performance.planning.reduction import SMALL_SUMS

NOTHING = HostWork.of(0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostLoad:
    """What one host does, and how often, for an update."""

    threads: int  # actor threads
    pools: int  # environment pools that each of them takes turns with
    envs_per_pool: int
    unroll_length: int
    env: HostWork  # one step of one pool, from its actions to its timestep
    act: HostWork  # one turn of an actor thread, from a pool's timestep to its actions on the host
    update: HostWork  # the host's share of an update, without waiting for other hosts
    finish: HostWork = NOTHING  # closes the rollout of one pool
    transfer: HostWork = NOTHING  # a thread's rollouts to the learner's devices; the thread does not wait for it
    publish: HostWork = NOTHING  # from an update's end until its parameters are with the actors
    open: HostWork = NOTHING  # opens a thread's pools and resets them, at boundaries
    shares_device: bool = False  # No thread acts during an update, other hosts' share of it included.

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("threads", "pools", "envs_per_pool", "unroll_length"):
            check(getattr(self, name) >= 1, f"A host with {name}={getattr(self, name)} does nothing; use at least 1.")

    @property
    def works(self) -> dict[str, HostWork]:
        """All kinds of work by name."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: work for name, work in fields.items() if isinstance(work, HostWork)}

    @property
    def env_steps_per_update(self) -> int:
        """Env steps that the host makes for one update."""
        return self.threads * self.pools * self.envs_per_pool * self.unroll_length

    @property
    def most_cores(self) -> float:
        """Cores that can be busy at the same time."""
        acting = max(self.act.cores, self.finish.cores, self.open.cores)
        return self.threads * (acting + self.pools * self.env.cores) + self.update.cores + self.publish.cores

    def slowed(self, factor: float) -> "HostLoad":
        """A host whose cores are slower; what accelerators and wires do takes as long as before."""
        if factor == 1:
            return self
        return self.with_works({name: factor for name, work in self.works.items() if work.cores > 0})

    def with_works(self, factors: Mapping[str, float], **others: Any) -> "HostLoad":
        """The same host where some work takes so many times as long."""
        scaled: dict[str, Any] = {name: self.works[name].scaled(factor) for name, factor in factors.items()}
        return dataclasses.replace(self, **scaled, **others)

    def with_pools(self, envs_per_pool: int, threads_ratio: float = 1.0) -> "HostLoad":
        """The same host with other pools; a scaling law, where nothing was measured.

        A pool's step takes time in proportion to environments over C++ threads, of which each pool has `threads_ratio`
        times as many; acting, updates and transfers take time in proportion to environments.
        """
        ratio = envs_per_pool / self.envs_per_pool
        factors = dict.fromkeys(("act", "finish", "update", "transfer"), ratio)
        env = dataclasses.replace(self.env.scaled(ratio / threads_ratio), cores=self.env.cores * threads_ratio)
        return self.with_works(factors, envs_per_pool=envs_per_pool, env=env)

    def with_unroll_length(self, unroll_length: int) -> "HostLoad":
        """The same host with other unrolls; assumes that updates and transfers take time in proportion."""
        factors = dict.fromkeys(("update", "transfer"), unroll_length / self.unroll_length)
        return self.with_works(factors, unroll_length=unroll_length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interconnect:
    """What the sums over all hosts take that an optimizer step needs.

    With N hosts one takes `2 ceil(log2 N) latency + 2 (N - 1) / N * bytes / bandwidth`: halving and doubling, whose
    messages are few and which moves no more than it must.

    Source: Thakur et al. 2005, Optimization of Collective Communication Operations in MPICH, IJHPCA 19(1), section 4.5
    (Rabenseifner's algorithm), without the cost of adding.
    """

    latency_s: float = 0.0  # of one message
    bytes_per_second: float = math.inf  # of one host, one way
    constant_s: float = 0.0  # on top of that, between any number of hosts above one
    small_sums: int = SMALL_SUMS  # sums of a single number beside that of the gradients

    def allreduce_s(self, hosts: int, size_bytes: float) -> float:
        """Seconds from the last host's arrival until all have the sums."""
        if hosts == 1:
            return 0.0
        rounds = 2 * (hosts - 1).bit_length() * (1 + self.small_sums)
        moved_bytes = 2 * (hosts - 1) / hosts * size_bytes
        return self.constant_s + rounds * self.latency_s + moved_bytes / self.bytes_per_second


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A whole job."""

    host: HostLoad
    hosts: int = 1
    cores: float = math.inf  # of each host; infinite if they never run short
    slow: Mapping[int, float] = dataclasses.field(default_factory=dict)  # factors by which some hosts' cores are slower
    max_lag: int = 1  # updates that the acting parameters are behind, away from boundaries; with 0 nothing overlaps
    exact: bool = True  # whether it is always that, or at most (`determinism='free'`)
    boundary_every: int = 0  # updates between boundaries, at which environments open anew; 0 for none but the start
    reductions: int = 1  # all-reduces in an update, one for each optimizer step
    allreduce_s: float = 0.0  # of each, from the last host's arrival

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name, least in (("hosts", 1), ("max_lag", 0), ("reductions", 1), ("allreduce_s", 0), ("boundary_every", 0)):
            check(getattr(self, name) >= least, f"A job with {name}={getattr(self, name)}; use at least {least}.")
        check(self.cores > 0, f"A host of {self.cores:g} cores; expected a positive number.")
        for host, factor in self.slow.items():
            check(
                0 <= host < self.hosts and factor > 0,
                f"Host {host} slower by {factor:g}: expected one of the {self.hosts} hosts, from 0, and a positive "
                "factor.",
            )
