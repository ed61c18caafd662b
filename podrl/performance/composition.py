"""From the times of a run's stages to its rate: the one rule by which benchmark, planner and studies predict.

The stages of an update are environments, acting (with a round trip between host and device for every step), the
rollouts' way to the learner, and learning with its reductions between processes. A thread with several pools acts for
one while the others step; with one pool it takes turns with its environments. With a lag, stages overlap and the
longest decides. Without one they follow each other, as they do where one accelerator acts and learns. Stages that share
the cores of a machine take at least the sum of their core-seconds over those cores.

What it leaves out: stragglers and hosts that wait for each other (`podrl.performance.planning.simulation` has them),
rows of metrics, evaluation, checkpoints, and what stages take from each other in caches and memory.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import NamedTuple

STAGE_KEYS = ("env", "act", "transfer", "learn", "reduce")
COLLECT = "collect"  # The stage that stands for environments, acting and transfer where actors were measured together.
PROGRAM = "program"  # The stage that stands for all where environments are inside the compiled program.
# Parts of learning or of that program, and what limits them: their times are not to be added to it.
INSERT, SAMPLE, COPY = OF_REPLAY = ("insert", "sample", "copy")


class StageCost(NamedTuple):
    """What a stage takes of one process, alone on its machine."""

    wall_s: float = 0.0  # seconds of the wall clock
    core_s: float = 0.0  # core-seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
    """Which stages of a run go on at the same time."""

    several_pools: bool  # An actor thread acts for one pool while others step.
    in_turn: bool  # No actor acts during an update.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composed:
    """Seconds that the stages take together, and what decides: `collect`, `turns`, `transfer`, `learn` or `cores`."""

    seconds: float
    limit: str


def compose(
    wall_s: Mapping[str, float], overlap: Overlap, *, core_s: float = 0.0, cores: float = math.inf, turns_s: float = 0.0
) -> Composed:
    """Composes stage times, all of them for the same env steps.

    Args:
        wall_s: Seconds of each stage alone; a stage that is missing takes none.
        overlap: Which of them go on at the same time.
        core_s: Core-seconds of all stages together.
        cores: The cores that they share.
        turns_s: What one environment's steps take with the waits for its actions; collecting takes no less.
    """
    env, act, transfer, learn, reduce = (wall_s.get(name, 0.0) for name in STAGE_KEYS)
    learn += reduce + wall_s.get(PROGRAM, 0.0)
    collect = max(env, act) if overlap.several_pools else env + act
    if COLLECT in wall_s:
        collect, transfer = wall_s[COLLECT], 0.0
    collecting = "collect" if collect >= turns_s else "turns"
    collect = max(collect, turns_s)
    if overlap.in_turn:
        found = Composed(seconds=collect + transfer + learn, limit=collecting if collect >= learn else "learn")
    else:
        seconds, limit = max(
            [(collect, collecting), (learn, "learn"), (transfer, "transfer")], key=lambda each: each[0]
        )
        found = Composed(seconds=seconds, limit=limit)
    shared_s = core_s / cores
    return found if found.seconds >= shared_s else Composed(seconds=shared_s, limit="cores")
