"""Scores between random play and an expert's, by returns in a file.

Source: Fu et al. 2020, D4RL, arXiv:2004.07219, section 6.
"""

from collections.abc import Mapping
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from podrl.config import programs
from podrl.config.config import ConfigError, check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """What normalised scores of an environment are measured by.

    Attributes:
        env_id: The environment.
        random: Mean return of random play, which scores 0.
        expert: Mean return of the expert, which scores 1.
    """

    env_id: str
    random: float
    expert: float

    def normalise(self, mean: float) -> float:
        """Returns (return - random) / (expert - random)."""
        return (mean - self.random) / (self.expert - self.random)


def read_reference(path: Path, env_id: str) -> Reference:
    """Reads the reference of an environment.

    Raises:
        ConfigError: If there is none, or it is of another environment; the message names the file.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"--reference={path} cannot be read ({error.strerror or error}).") from None
    except ValueError:
        values = None
    fields = values if isinstance(values, dict) else {}
    returns = [fields.get(name) for name in ("random", "expert")]
    check(
        isinstance(fields.get("env_id"), str) and all(isinstance(x, int | float) and math.isfinite(x) for x in returns),
        f"--reference={path} is no reference: expected JSON with env_id, random and expert, as "
        f"{programs.program_of('make_control_data')} writes it.",
    )
    check(
        fields["env_id"] == env_id,
        f"--reference={path} is of {fields['env_id']}; the run plays {env_id}. Name the file of this environment.",
    )
    check(returns[0] != returns[1], f"--reference={path}: random and expert have the same return, {returns[0]:g}.")
    return Reference(env_id=env_id, random=float(fields["random"]), expert=float(fields["expert"]))


def write_reference(path: Path, reference: Reference, facts: Mapping[str, Any]) -> None:
    """Writes a reference, and where it is from."""
    path.write_text(json.dumps({**dataclasses.asdict(reference), **facts}, indent=2) + "\n")
