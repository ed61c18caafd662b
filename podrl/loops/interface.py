"""What every run loop takes and returns: the parts of a run, the functions that it calls, and what watches it.

A loop is `run(assembly, *, start, hooks, services, job, programs) -> Outcome`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import TypeVar

from absl import logging
import numpy as np

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config
from podrl.envs.source import Source
from podrl.evaluation.evaluator import OFF, Evaluator
from podrl.experience.handoff import Rollout
from podrl.experience.layout import Layout
from podrl.learning.fused import FusedLearner
from podrl.learning.learner import Learner
from podrl.learning.programs import FusedPrograms, Programs, compile_fused, compile_offline, compile_programs
from podrl.learning.recorded import Recorded
from podrl.learning.seeds import SeedsLearner
from podrl.mesh import ShardingRule, Topology
from podrl.runtime.interruption import NEVER, Stop
from podrl.runtime.ledger import Annotate, Ledger
from podrl.runtime.watchdog import Watchdog
from podrl.telemetry.metrics_file import Row
from podrl.types import Counters, EnvSpec, LearnerState, Snapshot

_State = TypeVar("_State", bound=LearnerState)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assembly:
    """What a run is made of, before anything is compiled or started.

    Attributes:
        asked: The run's config as the user asked for it, with the environment's options as its constructor gets them.
        config: The same, with what was left to this machine.
        source: Makes environments.
        spec: One environment.
        topology: Who acts and who learns.
        layout: How environments are dealt out.
        agent: The algorithm, its network split over the learner's devices.
        rules: Layout of wide parameters.
        learner: Makes the updates; with `topology.placement='anakin'` a `FusedLearner`, which also acts, or a
            `SeedsLearner` of several seeds.
        recorded: What the run learns from; None if that is its own experience.
    """

    asked: Config
    config: Config
    source: Source
    spec: EnvSpec
    topology: Topology
    layout: Layout
    agent: Agent
    rules: Sequence[ShardingRule]
    learner: Learner | FusedLearner | SeedsLearner
    recorded: Recorded | None = None

    @property
    def data_hash(self) -> str:
        """Hash of the rows of the data set that the run learns from; empty without one."""
        return self.recorded.data.hash if self.recorded else ""

    @property
    def state_shape(self) -> LearnerState:
        """Shapes, dtypes and shardings of the learner's state: a `FusedState` where environments are inside."""
        return self.learner.state_shape

    @property
    def env_index(self) -> np.ndarray:
        """The order of the environments in a batch that the learner has joined, [B] uint32."""
        return self.layout.joined_indices(self.topology.learner.shape["data"])

    def compile(self) -> Programs | FusedPrograms:
        """Compiles the run's programs ahead of time, so that no timeout has to allow for it."""
        programs: Programs | FusedPrograms
        if isinstance(self.learner, FusedLearner | SeedsLearner):
            programs = compile_fused(self.learner)
        elif self.recorded is not None:
            programs = compile_offline(self.recorded, self.topology, self.learner)
        else:
            programs = compile_programs(self.config, self.agent, self.spec, self.topology, self.learner)
        if self.rules and programs.memory is not None:
            size = self.topology.learner.size
            what = "A call" if isinstance(programs, FusedPrograms) else "An update"
            logging.info("%s on each of %d learner devices: %s.", what, size, programs.memory.describe())
        return programs

    def of_each_seed(self) -> list["Assembly"]:
        """The parts of each seed's run, as if it ran alone; of one seed these parts themselves."""
        if not isinstance(self.learner, SeedsLearner):
            return [self]
        single = self.learner.single
        return [
            dataclasses.replace(self, asked=asked, config=config, learner=single)
            for asked, config in zip(self.asked.of_each_seed(), self.config.of_each_seed(), strict=True)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions that a loop calls.

    Attributes:
        show_phase: Told what happens before training.
        compile: Compiles what these functions run beside the loop's programs; called once those are compiled.
        begin: (first state of a run that does not resume) -> the state that it begins with, such as with the weights of
            another run; idempotent.
        before_update: (launched, ended), called before each update, or each call of several, with the counters after
            what was launched last and after what has ended.
        take_rollouts: (counters, rollouts), called with this process's fresh rollouts of the update after `counters`. A
            fused loop has none.
        between_updates: (state, counters) -> state, after every `between_every`-th update and before its parameters are
            published; called on every process with the same counters. A call of several updates ends there. Of several
            seeds the state has their axis in front.
        between_every: Updates between two calls of `between_updates`; 0 for none.
        write_row: Takes each row of metrics.
        save: Writes a checkpoint; called every `checkpoint.every_updates` and at the end.
    """

    show_phase: Callable[[str], None] = lambda text: None
    compile: Callable[[], object] = lambda: None
    begin: Callable[[LearnerState], LearnerState] = lambda state: state
    before_update: Callable[[Counters, Counters], None] = lambda launched, ended: None
    take_rollouts: Callable[[Counters, Sequence[Rollout]], None] = lambda counters, rollouts: None
    between_updates: Callable[[LearnerState, Counters], LearnerState] = lambda state, counters: state
    between_every: int = 0
    write_row: Callable[[Row], None] = lambda row: None
    save: Callable[[Snapshot], None] = lambda snapshot: None

    def between(self, state: _State, counters: Counters) -> _State:
        """Returns the state that the next update starts from."""
        if not self.between_every or counters.learner_steps % self.between_every:
            return state
        return self.between_updates(state, counters)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Services:
    """What watches a run and tells it to stop.

    Attributes:
        stop: Whether the run is to stop; asked before the actors start and before every update.
        evaluator: Plays with some updates' parameters; the caller closes it.
        ledger: The main thread's.
        watchdog: Watches every thread.
        annotate: Shows a profiler what each thread spends its time on.
    """

    stop: Stop = NEVER
    evaluator: Evaluator = OFF
    ledger: Ledger = dataclasses.field(default_factory=lambda: Ledger("learner"))
    watchdog: Watchdog = dataclasses.field(default_factory=lambda: Watchdog(math.inf))
    annotate: Annotate | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One seed of a run of several.

    Attributes:
        assembly: The parts of this seed's run, see `Assembly.of_each_seed`.
        start: Where it resumes, at the same counters as the other seeds; None if it begins.
        hooks: Its `write_row` and `save` are called.
        services: Its `evaluator` plays; the others are those of the process.
    """

    assembly: Assembly
    start: Snapshot | None
    hooks: Hooks
    services: Services


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves in memory.

    Attributes:
        state: The learner's last state; of several seeds that of the first.
        counters: Progress of the whole job; of several seeds that of each.
        finished: False if it was told to stop before the last update or the last evaluation had ended.
        stop_code: 0, or the exit code of the signal that stopped it.
        env_steps_per_second: Average that the learner consumed, warm-up excluded; NaN after a single update. Of several
            seeds their sum.
        samples_per_second: The same of samples of a data set; NaN in a run that learns from none.
        compile_s: Seconds that compilation took; 0 if the programs were given.
        episode_return: Mean over the newest episodes; None if none has finished. Of several seeds the mean of theirs.
        episodes: Number of episodes behind it.
        seeds: The outcome of each seed, of several.
    """

    state: LearnerState
    counters: Counters
    finished: bool
    stop_code: int
    env_steps_per_second: float
    compile_s: float
    episode_return: float | None
    episodes: int
    samples_per_second: float = math.nan
    seeds: Sequence["Outcome"] = ()
