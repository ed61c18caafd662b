"""The sections of a config that say what a run records of its progress: checkpoints, evaluations and rows.

Import them from `podrl.config.config`, which has the other sections.
"""

import dataclasses

from podrl.config.ranges import LONGEST_S, SIZE, check_values, number, texts
from podrl.mistakes import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Which checkpoints are made and kept.

    A run resumes bit for bit from any of them. At each of these checkpoints environments on the host are opened anew,
    also in a run that is not stopped (`podrl.experience.schedule` says why): the interval is a part of the experiment.
    Episodes in progress are then missing from the statistics, long ones more often than short ones: make the interval
    many times as long as an episode, and always longer than the time limit. Environments inside the compiled program
    are a part of the checkpoint and continue.

    Attributes:
        every_updates: updates between checkpoints; 0 saves only at the end.
        keep: number of newest checkpoints kept; one made because a run was stopped in between does not count.
        keep_every: updates between checkpoints that are kept permanently, a multiple of `every_updates`; 0 for none.
        keep_best: number of checkpoints kept for the highest mean return of the newest `log.episodes` episodes; those
            made before an episode ended, or between boundaries, do not count. 0 for none.
        replay: whether the newest checkpoint has the replay, with several seeds the two newest; the ones before never
            do. Without it a run that resumes refills its replay, and so is not bit for bit the one that was stopped.
    """

    every_updates: int = number(0, SIZE, 1000, open=True)
    keep: int = number(1, 10**6, 3)
    keep_every: int = number(0, SIZE, 0, open=True)
    keep_best: int = number(0, 10**6, 0)
    replay: bool = True

    def __post_init__(self) -> None:
        """Checks the values and that `keep_every` is a multiple of `every_updates`."""
        check_values(self, "checkpoint.")
        check(
            not self.keep_every or (self.every_updates > 0 and self.keep_every % self.every_updates == 0),
            f"checkpoint.keep_every={self.keep_every} must be a multiple of checkpoint.every_updates="
            f"{self.every_updates}, since checkpoints are made at multiples of that only; 0 keeps none permanently.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation during training, by the environment's own protocol and with the parameters of exactly one update.

    Attributes:
        every_updates: updates between evaluations; the last update has one too. 0 for none at all.
        episodes: episodes to play each time, or a few more: every environment plays the same number.
        greedy: whether to take the action that the agent rates highest, instead of sampling as in training.
        timeout_s: seconds that the learner waits for an evaluation before the run ends with an error.
    """

    every_updates: int = number(0, SIZE, 0, open=True)
    episodes: int = number(1, 10**6, 20)
    greedy: bool = False
    timeout_s: float = number(0.001, LONGEST_S, 3600.0)

    def __post_init__(self) -> None:
        """Checks the values."""
        check_values(self, "evaluate.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What a run records of its progress.

    Attributes:
        every_updates: updates between two rows of `metrics.jsonl`.
        episodes: number of newest finished episodes that `episode/return` averages over.
        tensorboard: whether to write TensorBoard events too.
        info_keys: numbers of environments' `info` to average over the same episodes, as `episode/info/...`: patterns
            such as `success`, `reward_*` or `episode/r`, with `max:`, `mean:`, `min:` or `sum:` in front for all of an
            episode's steps instead of its last (`podrl.envs.workers.info_keys`).
    """

    every_updates: int = number(1, SIZE, 10, open=True)
    episodes: int = number(1, 10**6, 100)
    tensorboard: bool = True
    info_keys: tuple[str, ...] = texts(100, (), length=200)

    def __post_init__(self) -> None:
        """Checks the values."""
        check_values(self, "log.")
