"""The Anakin run loop: environments, acting and learning in one compiled program on every device.

The main thread calls the program for several updates at a time and accounts for each call while the next one runs. A
call ends wherever there is something to do on the host: a row of metrics, a checkpoint, an evaluation. What acts is
always the newest parameters, and environments are a part of the state: a run that was stopped goes on where it was.

Source: the Anakin architecture of Hessel et al. 2021, arXiv:2104.06272.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
import time
from typing import cast

from absl import logging
import jax
import numpy as np

from podrl.agents.parts.nonfinite import NonFiniteError
from podrl.config.config import Config
from podrl.envs.source import Source, make_environment
from podrl.evaluation.evaluator import OFF, Evaluator
from podrl.experience.schedule import is_finished, last_update
from podrl.learning.fused import FusedLearner, FusedPrograms, Report, compile_fused
from podrl.loops.bookkeeping import (
    COMPILE_S,
    Evaluations,
    Outcome,
    count_updates,
    explain_nonfinite,
    first_snapshot,
    is_checkpoint_due,
    make_journal,
    make_outcome,
    make_snapshot,
    nothing_to_do,
)
from podrl.mesh import ShardingRule, Topology
from podrl.runtime.devices import is_ready
from podrl.runtime.job.job import ALONE, Job
from podrl.runtime.ledger import OTHER, Annotate, Ledger
from podrl.runtime.waiting import wait_until
from podrl.runtime.watchdog import Watchdog, Watched
from podrl.telemetry.metrics_file import Row
from podrl.telemetry.metrics_rows import Journal
from podrl.telemetry.rates import End
from podrl.types import Agent, Counters, EnvSpec, FusedState, Snapshot


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Call:
    """Updates in flight.

    Attributes:
        counters: after each of them.
        report: on the devices.
    """

    counters: Sequence[Counters]
    report: Report


def run(
    config: Config,
    *,
    agent: Agent,
    spec: EnvSpec,
    source: Source,
    topology: Topology,
    rules: Sequence[ShardingRule] = (),
    programs: FusedPrograms | None = None,
    start: Snapshot | None = None,
    show_phase: Callable[[str], None] = lambda text: None,
    write_row: Callable[[Row], None] = lambda row: None,
    save: Callable[[Snapshot], None] = lambda snapshot: None,
    should_stop: Callable[[], int] = lambda: 0,
    give_up: Callable[[], bool] | None = None,
    before_update: Callable[[int], None] = lambda update: None,
    evaluator: Evaluator = OFF,
    annotate: Annotate | None = None,
    ledger: Ledger | None = None,
    watchdog: Watchdog | None = None,
    job: Job = ALONE,
) -> Outcome:
    """Trains until `total_env_steps` are consumed, or until told to stop.

    Args:
        config: of the whole run.
        agent: the algorithm.
        spec: the environment, as `source` describes it.
        source: makes environments that are JAX programs.
        topology: whose learner mesh does all.
        rules: layout of wide parameters.
        programs: compiled before, with the same arguments, and good for any number of runs; by default compiled here.
        start: where to go on, its state (a `FusedState`) on the devices and consumed; by default the run begins.
        show_phase: told what happens before training.
        write_row: takes each row of metrics.
        save: writes a checkpoint; called every `checkpoint.every_updates` and at the end.
        should_stop: asked before every call; anything but 0 ends the run. On several processes it must say the same on
            all of them.
        give_up: asked in long waits for evaluations; by default `should_stop`.
        before_update: told the number of the next update, from 1, before each call.
        evaluator: plays with some updates' parameters; the caller closes it.
        annotate: shows a profiler what the main thread spends its time on.
        ledger: of the main thread; by default one that starts here.
        watchdog: watches the main thread; by default nobody does.
        job: which process of how many this is.

    Raises:
        ConfigError: if the environments do not divide over the devices, or are not JAX programs.
        EvaluationError: if the evaluator's thread failed.
        TimeoutError: if a call takes longer than `actors.timeout_s`.
        RuntimeError: if a loss or gradient is not finite and `on_nonfinite='stop'`.
    """
    ledger = ledger or Ledger("learner", annotate=annotate)
    watchdog = watchdog or Watchdog(math.inf)
    evaluations = Evaluations(config, start, evaluator, job, ledger, give_up or (lambda: bool(should_stop())))
    start_s = time.perf_counter()
    environment = make_environment(source, config.env)
    if start is not None and is_finished(config, start.counters):
        fused = FusedLearner(config, agent, environment, spec, topology, rules)
        last_state = cast(FusedState, start.state)
        evaluated = evaluations.make_up(start.counters, lambda: fused.actor_params(last_state))
        return nothing_to_do(config, start, finished=evaluated, stop_code=int(should_stop()))
    show_phase("compiling")
    with ledger.spend("compile" if programs is None else OTHER):
        programs = programs or compile_fused(config, agent, environment, spec, topology, rules)
        job.exchange("programs compiled", "", COMPILE_S)  # What follows is quick, so that others need not wait long.
        start = start or first_snapshot(programs.learner.init, config.seed)
    learner, state = programs.learner, cast(FusedState, start.state)
    counters, saved = start.counters, start.counters

    def doing() -> str:
        bucket, seconds = ledger.doing()
        return f"learner has been in {bucket!r} for {seconds:.1f} s; launched are {counters.learner_steps} updates"

    watchdog.watch(Watched(ledger=ledger, doing=doing, is_alive=lambda: True))
    journal = make_journal(config, spec, start, job, start_s=start_s, learner=ledger, actors=[], write=write_row)
    accounts = _Accounts(journal, ledger, config.actors.timeout_s)
    if evaluations.is_due(counters):  # On all processes, though one evaluates: they hold parts of the parameters.
        evaluator.add(counters, learner.actor_params(state))
    try:
        while not is_finished(config, counters) and not should_stop():
            before_update(counters.learner_steps + 1)
            if counters == start.counters:
                show_phase("first update")
            num = updates_to_next_stop(config, counters, learner.max_updates)
            with ledger.spend("learn"):
                state, report = learner.run(state, num)
            calls = [count_updates(config, spec, counters, 1 + index) for index in range(num)]
            counters = calls[-1]
            accounts.add(_Call(counters=calls, report=report))
            saves = is_checkpoint_due(config, counters)
            params = learner.actor_params(state) if evaluations.is_due(counters) else None
            evaluations.add(counters, params, saves=saves, look=accounts.look)
            if saves:
                accounts.settle(is_last=False)  # Nothing that is not finite becomes a checkpoint.
                with ledger.spend("checkpoint"):
                    save(make_snapshot(state, counters, journal))
                saved = counters
        accounts.settle()
    except NonFiniteError as error:
        raise explain_nonfinite(error, config, start.counters, counters, state) from None
    except TimeoutError:
        logging.error("A thread waited for too long.\n%s", watchdog.report(but=ledger))
        raise
    if counters != saved:
        save(make_snapshot(state, counters, journal))
    evaluated = evaluations.settle(counters)
    return make_outcome(config, state, counters, journal, ledger, evaluated=evaluated, code=int(should_stop()))


def updates_to_next_stop(config: Config, counters: Counters, limit: int) -> int:
    """Updates until the next that has a row, a checkpoint or an evaluation, or until the last, but at most `limit`."""
    done = counters.learner_steps
    intervals = (config.log.every_updates, config.checkpoint.every_updates, config.evaluate.every_updates)
    stops = [done + every - done % every for every in intervals if every]
    last = last_update(config, counters)
    return min(limit, *(stop - done for stop in stops), last - done, *([] if done else [1]))


class _Accounts:
    """Enters calls into the journal, each when the next is in flight."""

    def __init__(self, journal: Journal, ledger: Ledger, timeout_s: float):
        """Starts empty."""
        self._journal, self._ledger, self._timeout_s = journal, ledger, timeout_s
        self._pending: _Call | None = None
        self._end: End | None = None  # of the pending call, as soon as it is known

    def add(self, call: _Call) -> None:
        """Takes a call that was just launched, and settles the one before it."""
        self.settle(is_last=False)
        self._pending = call
        self.look()  # Some programs end before their launch returns: on a CPU those that call Python.

    def look(self) -> bool:
        """Whether the newest call has ended; keeps when that was first seen. Waits for nothing."""
        if self._pending is not None and self._end is None and is_ready(self._pending.report):
            self._end = self._journal.mark()
        return self._pending is None or self._end is not None

    def settle(self, *, is_last: bool = True) -> None:
        """Waits for the newest call and enters its updates.

        Args:
            is_last: whether it is the run's last, whose last update has a row in any case.

        Raises:
            TimeoutError: if it does not end in time.
            NonFiniteError: if the loss or gradient of an update is not finite.
        """
        call = self._pending
        if call is None:
            return
        self._wait(call)
        self._pending, end, self._end = None, self._end, None
        metrics, fingerprint = jax.device_get((dict(call.report.metrics), call.report.fingerprint))
        returns, lengths = (_local_rows(x) for x in (call.report.episodes.returns, call.report.episodes.lengths))
        for index, counters in enumerate(call.counters):
            self._journal.add(
                counters,
                {name: values[index] for name, values in metrics.items()},
                fingerprint if self._journal.wants_row(counters) else None,
                _ended(returns[index], lengths[index]),
                end,
            )
        self._journal.settle(fingerprint if is_last else None)

    def _wait(self, call: _Call) -> None:
        first, last = call.counters[0].learner_steps, call.counters[-1].learner_steps
        with self._ledger.spend("learn"):
            wait_until(
                self.look,
                timeout_s=self._timeout_s,
                blame=lambda: (
                    f"The learner waited {self._timeout_s:.0f} s for updates {first} to {last} to end on their "
                    "devices. If updates are this slow, lower topology.updates_per_call or raise actors.timeout_s."
                ),
            )


def _local_rows(array: jax.Array) -> np.ndarray:
    """This process's environments of an array [K, T, B], in their order."""
    shards = {shard.index[2].start or 0: shard for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)], axis=2)


def _ended(returns: np.ndarray, lengths: np.ndarray) -> list[tuple[float, int]]:
    """(return, length) of the episodes [T, B] whose length is not 0, by row and then by environment."""
    ends = lengths > 0
    return list(zip(returns[ends].tolist(), lengths[ends].tolist(), strict=True))
