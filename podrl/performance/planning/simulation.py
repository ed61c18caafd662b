"""A job of any number of hosts as discrete events: actor threads, hand-offs, learners, and the sum that joins them.

The order of things is podrl's own. An actor thread makes rollout n with parameters of `Schedule.versions(n)` and puts
it into a hand-off of `1 + max_lag` rollouts; it goes on while the rollout travels. A host's learner takes one rollout
of every thread, does its share of the update, and then waits in an all-reduce for all other hosts: nobody's update ends
before the last host's gradients are there. The new parameters reach the host's actors a little later, while the next
update may run already. At boundaries environments open anew, and the newest parameters act.

Hosts meet in that all-reduce only, so what happens on one between two updates needs few events. At the grain `step`
every turn of every thread is simulated, with whatever it competes for. At the grain `unroll` a whole unroll is one
event, its duration drawn from the same steps (`podrl.performance.planning.unrolls`): exactly the same where nothing
competes for cores, and else but for competition being reckoned with an unroll's mean use of cores.

Left out: time that the main thread spends on rows of metrics and votes (it passes while an update runs), and Python's
lock, for which it competes with actors; memory bandwidth and caches that neighbours take from each other; networks on
which reductions meet other traffic; threads that share one accelerator for acting (`actors.threads_per_device` above 1)
do not wait for each other there; evaluations; faults.
"""

from collections.abc import Generator
import math
from typing import Any

import numpy as np

from podrl.config.config import check_one_of
from podrl.experience.schedule import Schedule
from podrl.performance.planning.cores import Cores
from podrl.performance.planning.events import Environment, Event, Store
from podrl.performance.planning.outcome import ACTOR_BUCKETS, LEARNER_BUCKETS, Account, SimulatedRun
from podrl.performance.planning.system import HostLoad, System
from podrl.performance.planning.unrolls import BLOCK, Stream, draw_unrolls
from podrl.performance.planning.waits import Barrier, Parameters

GRAINS = ("auto", "step", "unroll")
SETTLING_UPDATES = 5
_FINE_HOSTS = 8  # Up to so many, `auto` simulates every step.

_Steps = Generator[Event, Any, None]


def simulate(system: System, *, updates: int = 200, seed: int = 0, grain: str = "auto") -> SimulatedRun:
    """Runs a job for so many updates after its warm-up.

    Args:
        system: the job.
        updates: to look at, after `SETTLING_UPDATES` more.
        seed: of every draw; the same gives the same outcome.
        grain: `step`, `unroll`, or `auto`, which is `step` for a few hosts.

    Raises:
        ConfigError: for another grain.
    """
    check_one_of("grain", grain, GRAINS)
    if grain == "auto":
        grain = grain_for(system.hosts)
    return _Job(system, updates, seed, fine=grain == "step").run()


def grain_for(hosts: int) -> str:
    """The finest grain at which so many hosts are simulated in reasonable time."""
    return "step" if hosts <= _FINE_HOSTS else "unroll"


class _Job:
    """A run under way."""

    def __init__(self, system: System, updates: int, seed: int, *, fine: bool):
        self._system, self._fine = system, fine
        self._warmup, self._last = SETTLING_UPDATES, SETTLING_UPDATES + updates
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
        self._counted_since = 0.0
        self._learners = [Account(("wait_rollouts", *LEARNER_BUCKETS), 0.0) for _ in range(system.hosts)]
        self._actors: list[Account] = []
        machines = -(-system.hosts // system.hosts_per_machine)
        pauses = system.host.shares_device
        most_cores = system.host.most_cores + (1 if system.allreduce_core_s else 0)
        suffices = most_cores * system.hosts_per_machine <= system.cores
        count = math.inf if suffices else system.cores
        cores = [Cores(self._env, count, pauses_acting=pauses) for _ in range(machines)]
        for host in range(system.hosts):
            self._start(host, cores[host // system.hosts_per_machine], np.random.default_rng((seed, host)))

    def run(self) -> SimulatedRun:
        """To the end of the last update that counts."""
        self._env.run(until=self._ended)
        for account in (*self._learners, *self._actors):
            account.close(self._env.now)
        host, hosts = self._system.host, self._system.hosts
        updates = self._last - self._warmup
        total = sum(self._lags.values())
        return SimulatedRun(
            env_steps=host.env_steps_per_update * hosts * updates,
            update_s=np.diff(self._ends[self._warmup - 1 : self._last]),
            lag={lag: count / total for lag, count in sorted(self._lags.items())},
            actor_s={name: sum(account.seconds[name] for account in self._actors) for name in ACTOR_BUCKETS},
            learner_s={name: sum(account.seconds[name] for account in self._learners) for name in LEARNER_BUCKETS},
            actor_threads=hosts * host.threads,
            stepping_s=self._stepping_s,
            pools=hosts * host.threads * host.pools,
            host_wait_s=np.array([account.seconds["wait_hosts"] / updates for account in self._learners]),
            host_starved_s=np.array([account.seconds["wait_rollouts"] / updates for account in self._learners]),
        )

    def _start(self, index: int, cores: Cores, generator: np.random.Generator) -> None:
        """The threads of one host."""
        host = self._system.host.slowed(self._system.slow.get(index, 1.0))
        parameters = Parameters(self._env)
        handoffs = []
        for _ in range(host.threads):
            handoff = Store(self._env, capacity=1 + self._system.max_lag)
            handoffs.append(handoff)
            account = Account(("wait_params", *ACTOR_BUCKETS), 0.0)
            self._actors.append(account)
            (own,) = generator.spawn(1)
            self._env.process(self._act(host, cores, own, parameters, handoff, account))
        (own,) = generator.spawn(1)
        self._env.process(self._learn(index, host, cores, own, parameters, handoffs))

    def _act(
        self,
        host: HostLoad,
        cores: Cores,
        generator: np.random.Generator,
        parameters: Parameters,
        handoff: Store,
        account: Account,
    ) -> _Steps:
        """An actor thread."""
        env = self._env
        opening, transfer = Stream(host.open, generator), Stream(host.transfer, generator)
        unroll = self._unrolls_by_step if self._fine else self._unrolls_at_once
        unrolls = unroll(host, cores, generator, account)
        for rollout in self._schedule.rollouts:
            if rollout == self._schedule.boundary(rollout):
                account.switch("env", env.now)
                yield cores.run(opening.draw(), opening.cores)
            account.switch("wait_params", env.now)
            version = yield from parameters.fetch(self._schedule.versions(rollout))
            yield from next(unrolls)
            account.switch("wait_rollouts", env.now)
            arrives = env.now + transfer.draw()
            yield handoff.put((version, arrives))

    def _unrolls_at_once(
        self, host: HostLoad, cores: Cores, generator: np.random.Generator, account: Account
    ) -> Generator[_Steps, None, None]:
        """Unrolls of one thread, each a single event."""

        def unroll(seconds: float, acting: float, stepping: float, busy: float) -> _Steps:
            account.switch("act", self._env.now)
            yield cores.run(seconds, busy, acts=True)
            spent = account.switch("act", self._env.now)
            account.move(spent * (1 - acting), "act", "env")
            self._stepping_s += spent * stepping / seconds if seconds > 0 else 0.0

        while True:
            block = draw_unrolls(host, generator, (BLOCK,))
            for drawn in zip(block.seconds, block.act, block.env, block.cores, strict=True):
                yield unroll(*map(float, drawn))

    def _unrolls_by_step(
        self, host: HostLoad, cores: Cores, generator: np.random.Generator, account: Account
    ) -> Generator[_Steps, None, None]:
        """Unrolls of one thread, every turn of them; a pool waits for its turn at the start of each unroll."""
        acts, envs, finishes = (Stream(work, generator) for work in (host.act, host.env, host.finish))
        env = self._env

        def turn(stepping: Event | None, work: Stream) -> _Steps:
            if stepping is not None and not stepping.processed:
                account.switch("env", env.now)
                yield stepping
            account.switch("act", env.now)
            yield cores.run(work.draw(), work.cores, acts=True)

        def step() -> Event:
            begun = env.now
            stepping = cores.run(envs.draw(), envs.cores)

            def count(_: Event) -> None:
                self._stepping_s += env.now - max(begun, self._counted_since)

            stepping.callbacks.append(count)
            return stepping

        def unroll() -> _Steps:
            stepping: list[Event | None] = [None] * host.pools
            for _ in range(host.unroll_length):
                for pool in range(host.pools):
                    yield from turn(stepping[pool], acts)
                    stepping[pool] = step()
            for pool in range(host.pools):
                yield from turn(stepping[pool], finishes)

        while True:
            yield unroll()

    def _learn(
        self,
        index: int,
        host: HostLoad,
        cores: Cores,
        generator: np.random.Generator,
        parameters: Parameters,
        handoffs: list[Store],
    ) -> _Steps:
        """A host's main thread and its share of the learner's devices."""
        env, account, reductions = self._env, self._learners[index], self._system.reductions
        updating, publishing = Stream(host.update, generator), Stream(host.publish, generator)
        saving = Stream(host.save, generator)
        for update in self._schedule.rollouts:
            arrives = env.now
            for handoff in handoffs:
                version, arrived = yield handoff.get()
                arrives = max(arrives, arrived)
                self._lags[update - version] = self._lags.get(update - version, 0) + 1
            if arrives > env.now:
                yield env.timeout(arrives - env.now)
            seconds = updating.draw()
            cores.learn(1)
            # After the first reduction all hosts move in step, so the others can be one.
            rounds = [(1, seconds / reductions), (reductions - 1, seconds * (reductions - 1) / reductions)]
            for count, share in rounds if reductions > 1 else rounds[:1]:
                account.switch("learn", env.now)
                yield cores.run(share, updating.cores)
                yield from self._reduce(count, cores, account)
            cores.learn(-1)
            if index == 0:
                self._note_end(update + 1)
            env.process(self._publish(publishing, cores, parameters, update + 1))
            if self._is_boundary(update + 1):
                account.switch("checkpoint", env.now)
                yield cores.run(saving.draw(), saving.cores)
                account.switch("wait_rollouts", env.now)

    def _reduce(self, count: int, cores: Cores, account: Account) -> _Steps:
        """A host's part in so many all-reduces: it waits for the last host, and for what messages take of all cores."""
        system, env = self._system, self._env
        wire_s = count * (system.allreduce_s - system.allreduce_core_s)
        account.switch("wait_hosts", env.now)
        if system.allreduce_core_s:
            yield self._barrier.arrive(0.0)
            account.switch("allreduce", env.now)
            yield cores.run(count * system.allreduce_core_s, 1.0)
        yield self._barrier.arrive(wire_s)
        spent = account.switch("wait_rollouts", env.now)
        if not system.allreduce_core_s:
            account.move(min(spent, wire_s), "wait_hosts", "allreduce")

    def _publish(self, stream: Stream, cores: Cores, parameters: Parameters, version: int) -> _Steps:
        yield cores.run(stream.draw(), stream.cores)
        parameters.publish(version)

    def _is_boundary(self, update: int) -> bool:
        return self._schedule.boundary(update) == update

    def _note_end(self, update: int) -> None:
        """All hosts have ended an update."""
        self._ends.append(self._env.now)
        if update == self._warmup:
            self._counted_since = self._env.now
            self._stepping_s = 0.0
            self._lags.clear()
            for account in (*self._learners, *self._actors):
                account.restart(self._env.now)
        elif update == self._last:
            self._ended.succeed()
