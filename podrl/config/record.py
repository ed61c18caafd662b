"""The config sections `log` and `record`: what a run records of its progress, and of what it experiences."""

import dataclasses

from podrl.config.ranges import SIZE, check_values, number, texts
from podrl.mistakes import check

_LONGEST = 500


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """Which of a run's experience becomes a data set (docs/offline.md). It changes nothing of what is learned.

    Whole episodes are written as they came from the environments, by a thread of each process.

    Attributes:
        path: folder of the data set, on a disk of this machine; empty records nothing. Further processes of a job write
            into folders of their own inside it, and all of them are read together.
        steps: env steps of the whole job after which nothing more is recorded; 0 for no limit.
    """

    path: str = ""
    steps: int = number(0, 1e15, 0)

    def __post_init__(self) -> None:
        """Checks the values."""
        check_values(self, "record.")
        check(
            len(self.path) <= _LONGEST and (self.path.isprintable() and "://" not in self.path),
            f"record.path={self.path!r} must be the path of a folder on this machine, of at most {_LONGEST} printable "
            "characters.",
        )

    def check_run(self, placement: str) -> None:
        """Checks that a run has rollouts to record.

        Args:
            placement: `topology.placement`.

        Raises:
            ConfigError: If not.
        """
        check(
            not self.path or placement == "sebulba",
            f"record.path={self.path} is for topology.placement=sebulba; with {placement!r} experience does not leave "
            "the compiled program. Leave it out, and record the run's checkpoints: tools/record.py.",
        )
