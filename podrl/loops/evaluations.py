"""When a run evaluates, what waits for that, and how evaluations outlast a stop."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools

from etils import epath
import jax

from podrl.config.config import Config
from podrl.evaluation.evaluator import OFF, ROW_KEY, Evaluator, is_evaluation_due
from podrl.evaluation.making import MakeEvaluator, prepare_evaluators
from podrl.experience.schedule import last_update
from podrl.loops.interface import Assembly, Services
from podrl.runs.unfinished_evaluations import UnfinishedEvaluations
from podrl.runtime.job.job import Job
from podrl.runtime.ledger import OTHER
from podrl.telemetry.kept_rows import has_row_with
from podrl.telemetry.reporter import Reporter
from podrl.types import Counters, PyTree, Snapshot


class Evaluations:
    """When a run evaluates, and what waits for that; one process plays, and the others wait where it does."""

    def __init__(self, assembly: Assembly, start: Snapshot | None, services: Services, job: Job):
        """Starts no evaluation.

        Args:
            assembly: The run's parts.
            start: Where it resumes; None if it begins.
            services: Its evaluator plays on the first process alone; its `stop` ends long waits.
            job: All processes.
        """
        evaluate = assembly.config.evaluate
        self._evaluator, self._ledger, self._stop = services.evaluator, services.ledger, services.stop
        self._job = job
        self._is_on = evaluate.every_updates > 0
        self._timeout_s, self._actors_timeout_s = evaluate.timeout_s, assembly.config.actors.timeout_s
        self.is_due = functools.partial(
            is_evaluation_due,
            every_updates=evaluate.every_updates,
            last_update=last_update(assembly.config, start.counters if start else Counters()),
        )

    def begin(self, counters: Counters, params: PyTree) -> None:
        """Starts the evaluations that are missing where the run stands, and waits for them if they are several.

        From then on at most one is under way, which is what all others allow for when they wait for the learner. So
        this comes before actors start.

        Args:
            counters: Where the run stands.
            params: What `Agent.actor_params` returned.
        """
        with self._ledger.spend("evaluate" if self._is_on else OTHER):
            self._evaluator.add(counters, params)
            if not (self._is_on and counters.learner_steps):
                return
            num = str(len(self._evaluator.unfinished()))
            first, *_ = self._job.exchange("evaluations under way", num, self._actors_timeout_s + self._timeout_s)
            if int(first) > 1:
                self._evaluator.settle(self._stop.now)
                self._await_first(int(first))

    def add(self, counters: Counters, params: PyTree, *, saves: bool, look: Callable[[], object]) -> None:
        """Takes an update that was just launched; see `Evaluator.add`.

        Args:
            counters: After this update.
            params: What `Agent.actor_params` returned.
            saves: Whether a checkpoint follows.
            look: Sees whether the update has ended; called all the time while this waits for an evaluation.
        """

        def should_stop() -> bool:
            look()
            return self._stop.now()

        with self._ledger.spend("evaluate" if self._is_on else OTHER):
            self._evaluator.add(counters, params, saves=saves, should_stop=should_stop)
            if saves or self.is_due(counters):
                self._await_first()

    def settle(self) -> bool:
        """Waits for evaluations under way, and returns whether all that were due have ended."""
        with self._ledger.spend("evaluate"):
            ended = self._evaluator.settle(self._stop.now)
            self._await_first()
        return ended

    def make_up(self, counters: Counters, make_params: Callable[[], PyTree]) -> bool:
        """Makes the evaluations that a run which has made all updates lacks; returns whether they have ended."""
        if self._is_on:  # On all processes, though one evaluates: they hold parts of the parameters.
            self.begin(counters, make_params())
        with self._ledger.spend("evaluate"):
            ended = self._evaluator.settle(self._stop.now)
            self._await_first()
        return ended

    def _await_first(self, num: int = 1) -> None:
        """Waits for evaluations, which the first process alone does; a reduction has a shorter limit of its own."""
        if self._is_on:
            self._job.exchange("evaluation", "", self._actors_timeout_s + num * self._timeout_s)


def prepare_evaluation(assembly: Assembly) -> MakeEvaluator:
    """Returns what makes the evaluator of each seed of a run; see `prepare_evaluators`."""
    return prepare_evaluators(
        assembly.config,
        agent=assembly.agent,
        spec=assembly.spec,
        source=assembly.source,
        device=assembly.topology.local_actor_devices[-1],
    )


@contextlib.contextmanager
def open_evaluator(
    make: MakeEvaluator, config: Config, begin: Counters, folder: epath.Path, reporter: Reporter | None
) -> Iterator[tuple[Evaluator, Callable[[Snapshot], None]]]:
    """Opens the evaluator of a seed that starts at `begin`; one that is off where there is no reporter.

    Yields:
        It, and what keeps its unfinished evaluations in the folder; to be called before a checkpoint of a snapshot is
        saved.
    """
    if reporter is None:
        yield OFF, lambda snapshot: None
        return
    has_row = functools.partial(has_row_with, folder, ROW_KEY)
    done = {begin.learner_steps} if has_row(begin.learner_steps) else set()
    kept = UnfinishedEvaluations(folder, begin, has_row)

    def find(params: PyTree) -> Sequence[tuple[Counters, PyTree]]:
        return kept.read(params, made=begin.learner_steps if evaluator.is_due(begin) else None)

    def keep(snapshot: Snapshot) -> None:
        saved = snapshot.state if config.checkpoint.replay else dataclasses.replace(snapshot.state, replay=())
        size_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(saved))
        kept.keep(evaluator.unfinished(), snapshot.counters, size_bytes)

    with make(config.seed, begun=begin, done=done, write=reporter.write_evaluation, find_unfinished=find) as evaluator:
        yield evaluator, keep
        kept.keep(evaluator.unfinished())  # Not after an error: one that failed is made again.
