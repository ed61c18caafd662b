"""A job of any number of hosts as discrete events: actor threads, hand-offs, learners, and the sum that joins them.

The order of things is podrl's own. An actor thread makes rollout n with parameters of `Schedule.versions(n)` and puts
it into a hand-off of `1 + max_lag` rollouts; it continues while the rollout travels. A host's learner takes one rollout
of every thread, does its share of the update, and then waits in an all-reduce for all other hosts: no update ends
before the last host's gradients are there. The new parameters reach the host's actors a little later, while the next
update may run already. At boundaries environments open anew, and the newest parameters act.

Hosts meet in that all-reduce only, so what happens on one between two updates needs few events: a whole unroll is one,
its duration drawn from single steps by the recurrence over an actor thread's turns. At an unroll's end all pools have
their timestep, so unrolls do not depend on the ones before:

    acting begins   b = max(end of the turn before, sent[pool] + env)
    the turn ends   sent[pool] = b + act

Left out: time that the main thread spends on rows of metrics and votes, and Python's lock, for which it competes with
actors; memory bandwidth and caches; networks on which reductions meet other traffic; threads that share one accelerator
for acting (`actors.threads_per_device` above 1) do not wait for each other there; checkpoints; evaluations; faults.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from podrl.experience.schedule import Schedule
from podrl.performance.planning.cores import Account, Barrier, Cores, Environment, Event, NewestParameters, Store
from podrl.performance.planning.distributions import HostWork
from podrl.performance.planning.system import HostLoad, System

SETTLING_UPDATES = 5  # At least, and two for each update of policy lag.
_BLOCK = 64  # Values drawn at a time, for speed.

_Steps = Generator[Event, Any, None]
# What the learner of a host may spend its time on; actors spend theirs as in `podrl.runtime.ledger`.
ACTOR_BUCKETS = ("env", "act", "wait_params", "wait_rollouts")
LEARNER_BUCKETS = ("learn", "allreduce", "wait_hosts", "wait_rollouts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatedRun:
    """A simulated run, without its warm-up."""

    hosts: int  # in the job
    env_steps_per_second: float  # of the whole job
    update_s: np.ndarray  # [updates] from one update's end to the next's
    lag: Mapping[int, float]  # part of all rollouts with each lag, in updates
    actors: Mapping[str, float]  # part of all actor threads' time in each bucket
    learner: Mapping[str, float]  # part of all hosts' learners' time in each bucket
    env_idle: float  # part of the time in which a pool does not step
    host_wait_s: np.ndarray  # [hosts] per update that each host's learner waited for other hosts
    host_starved_s: np.ndarray  # [hosts] the same, for its own rollouts


def simulate(system: System, *, updates: int = 200, seed: int = 0) -> SimulatedRun:
    """Runs a job for so many updates after it has settled; the same seed gives the same outcome."""
    return _Job(system, updates, seed).run()


class Unroll(NamedTuple):
    """Whole unrolls of one thread, each an entry of these arrays."""

    seconds: np.ndarray
    act: np.ndarray  # the part of it in which the thread acts; else it waits for a pool
    env_s: np.ndarray  # seconds that its pools step, all of them added up
    cores: np.ndarray  # that are busy meanwhile, on average


def draw_unrolls(host: HostLoad, generator: np.random.Generator, count: int) -> Unroll:
    """Draws independent unrolls."""
    now = np.zeros(count)
    spent = {"act": np.zeros(count), "env": np.zeros(count), "finish": np.zeros(count)}
    ready = [now] * host.pools

    def draw(name: str) -> np.ndarray:
        seconds = host.works[name].draw(generator, count)
        spent[name] += seconds
        return seconds

    for _ in range(host.unroll_length):
        for pool in range(host.pools):
            now = np.maximum(now, ready[pool]) + draw("act")
            ready[pool] = now + draw("env")
    for pool in range(host.pools):
        now = np.maximum(now, ready[pool]) + draw("finish")
    core_s = sum(seconds * host.works[name].cores for name, seconds in spent.items())
    positive = np.where(now > 0, now, 1.0)
    return Unroll(now, (spent["act"] + spent["finish"]) / positive, spent["env"], core_s / positive)


def _draws(work: HostWork, generator: np.random.Generator) -> Iterator[float]:
    """Seconds that some work takes alone, each time."""
    blocks = (work.draw(generator, _BLOCK).tolist() for _ in itertools.count())
    return itertools.chain.from_iterable(blocks)


class _Host(NamedTuple):
    work: HostLoad
    cores: Cores
    parameters: NewestParameters
    handoffs: list[Store]  # one of each actor thread


class _Job:
    """A run under way."""

    def __init__(self, system: System, updates: int, seed: int):
        self._system = system
        self._warmup = max(SETTLING_UPDATES, 2 * system.max_lag)  # By then actors are as far ahead as they get.
        self._last = self._warmup + updates
        self._env = Environment()
        self._schedule = Schedule(
            first=0,
            last=self._last + 2 + system.max_lag,  # So that nothing runs dry before the last update that counts.
            every=system.boundary_every if system.exact else 0,
            max_lag=system.max_lag,
            exact=system.exact,
        )
        self._barrier = Barrier(self._env, system.hosts)
        self._ended = self._env.event()
        self._ends: list[float] = []
        self._lags: dict[int, int] = {}
        self._stepping_s = 0.0
        self._learners = [Account(("wait_rollouts", *LEARNER_BUCKETS), 0.0) for _ in range(system.hosts)]
        self._actors: list[Account] = []
        count = math.inf if system.host.most_cores <= system.cores else system.cores
        for host in range(system.hosts):
            cores = Cores(self._env, count, pauses_acting=system.host.shares_device)
            self._start(host, cores, np.random.default_rng((seed, host)))

    def run(self) -> SimulatedRun:
        """Runs to the end of the last update that counts."""
        self._env.run(until=self._ended)
        for account in (*self._learners, *self._actors):
            account.switch("wait_rollouts", self._env.now)  # Books what is open.
        host, hosts = self._system.host, self._system.hosts
        updates, total = self._last - self._warmup, sum(self._lags.values())
        update_s = np.diff(self._ends[self._warmup - 1 : self._last])
        wall_s = float(update_s.sum())

        def shares(accounts: Sequence[Account], buckets: Sequence[str]) -> dict[str, float]:
            return {name: sum(each.seconds[name] for each in accounts) / (wall_s * len(accounts)) for name in buckets}

        return SimulatedRun(
            hosts=hosts,
            env_steps_per_second=host.env_steps_per_update * hosts * updates / wall_s,
            update_s=update_s,
            lag={lag: count / total for lag, count in sorted(self._lags.items())},
            actors=shares(self._actors, ACTOR_BUCKETS),
            learner=shares(self._learners, LEARNER_BUCKETS),
            env_idle=1 - self._stepping_s / (wall_s * hosts * host.threads * host.pools),
            host_wait_s=np.array([account.seconds["wait_hosts"] / updates for account in self._learners]),
            host_starved_s=np.array([account.seconds["wait_rollouts"] / updates for account in self._learners]),
        )

    def _start(self, index: int, cores: Cores, generator: np.random.Generator) -> None:
        """Starts the threads of one host."""
        host = _Host(
            work=self._system.host.slowed(self._system.slow.get(index, 1.0)),
            cores=cores,
            parameters=NewestParameters(self._env),
            handoffs=[Store(self._env, capacity=1 + self._system.max_lag) for _ in range(self._system.host.threads)],
        )
        for handoff in host.handoffs:
            self._env.process(self._act(host, handoff, generator.spawn(1)[0]))
        self._env.process(self._learn(index, host, generator.spawn(1)[0]))

    def _act(self, host: _Host, handoff: Store, generator: np.random.Generator) -> _Steps:
        """An actor thread."""
        env, account = self._env, Account(("wait_params", *ACTOR_BUCKETS), 0.0)
        self._actors.append(account)
        work, cores = host.work, host.cores
        opening, transfer = _draws(work.open, generator), _draws(work.transfer, generator)
        blocks = (draw_unrolls(work, generator, _BLOCK) for _ in itertools.count())
        unrolls = itertools.chain.from_iterable(zip(*block, strict=True) for block in blocks)
        for rollout in self._schedule.rollouts:
            if rollout == self._schedule.boundary(rollout):
                account.switch("env", env.now)
                yield cores.run(next(opening), work.open.cores)
            account.switch("wait_params", env.now)
            version = yield from host.parameters.fetch(self._schedule.versions(rollout))
            seconds, acting, stepping, busy = map(float, next(unrolls))
            account.switch("act", env.now)
            yield cores.run(seconds, busy, acts=True)
            spent = account.switch("wait_rollouts", env.now)
            account.move(spent * (1 - acting), "act", "env")
            self._stepping_s += spent * stepping / seconds if seconds > 0 else 0.0
            yield handoff.put((version, env.now + next(transfer)))

    def _learn(self, index: int, host: _Host, generator: np.random.Generator) -> _Steps:
        """A host's main thread and its share of the learner's devices."""
        env, account, reductions = self._env, self._learners[index], self._system.reductions
        work, cores = host.work, host.cores
        updating, publishing = _draws(work.update, generator), _draws(work.publish, generator)
        # After the first reduction all hosts move in step, so the others can be one.
        rounds = [(1, 1 / reductions), (reductions - 1, (reductions - 1) / reductions)][: min(reductions, 2)]
        for update in self._schedule.rollouts:
            arrives = env.now
            for handoff in host.handoffs:
                version, arrived = yield handoff.get()
                arrives = max(arrives, arrived)
                self._lags[update - version] = self._lags.get(update - version, 0) + 1
            if arrives > env.now:
                yield env.timeout(arrives - env.now)
            seconds = next(updating)
            cores.learn(1)
            for count, share in rounds:
                account.switch("learn", env.now)
                yield cores.run(seconds * share, work.update.cores)
                account.switch("wait_hosts", env.now)
                yield self._barrier.arrive(count * self._system.allreduce_s)
                spent = account.switch("wait_rollouts", env.now)
                account.move(min(spent, count * self._system.allreduce_s), "wait_hosts", "allreduce")
            cores.learn(-1)
            if index == 0:
                self._note_end(update + 1)
            published = cores.run(next(publishing), work.publish.cores)
            published.callbacks.append(functools.partial(host.parameters.publish, update + 1))

    def _note_end(self, update: int) -> None:
        """All hosts have ended an update."""
        self._ends.append(self._env.now)
        if update == self._warmup:
            self._stepping_s = 0.0
            self._lags.clear()
            for account in (*self._learners, *self._actors):
                account.restart(self._env.now)
        elif update == self._last:
            self._ended.succeed()
