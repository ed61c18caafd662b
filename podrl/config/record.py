"""The config section `record`: a run writes what it experiences into a data set while it trains."""

import dataclasses

from podrl.config import programs
from podrl.config.ranges import check_values, number, text
from podrl.mistakes import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """Which of a run's experience becomes a data set; it changes nothing of what is learned.

    See docs/howto/record_training.md.

    Whole episodes are written as they came from the environments, by a thread of each process.

    Attributes:
        path: folder of the data set, on a disk of this machine; empty records nothing. Further processes of a job write
            into folders of their own inside it, and all of them are read together.
        steps: env steps of the whole job after which nothing more is recorded; 0 for no limit.
    """

    path: str = text(4096, "", or_empty=True)
    steps: int = number(0, 1e15, 0)

    def __post_init__(self) -> None:
        """Checks the values."""
        check_values(self, "record.")
        check("://" not in self.path, f"record.path={self.path} must be the path of a folder on this machine.")

    def check_run(self, placement: str, *, is_offline: bool) -> None:
        """Checks that a run has rollouts to record.

        Args:
            placement: `topology.placement`.
            is_offline: Whether the run learns from a data set.

        Raises:
            ConfigError: If not.
        """
        check(
            not (self.path and is_offline),
            f"record.path={self.path} is for runs that act, and this one only learns from data.path. Leave it out.",
        )
        check(
            not self.path or placement == "sebulba",
            f"record.path={self.path} is for topology.placement=sebulba; with {placement!r} experience does not leave "
            f"the compiled program. Leave it out, and record the run's checkpoints: {programs.program_of('record')}.",
        )
