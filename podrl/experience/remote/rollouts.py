"""An actor's rollouts as bytes: the trajectories of its pools as raw arrays, and what belongs to them as short JSON."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from podrl.experience.episodes import Episode
from podrl.experience.remote.trees import TreeCodec
from podrl.runtime.job.wire import parse_message, seconds, whole
from podrl.types import Trajectory

_LONGEST_FACTS_BYTES = 1 << 24
_MOST_VERSIONS = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentRollout:
    """What an actor worker sends of one actor's rollout.

    Attributes:
        trajectories: One for each pool of the actor, on the host.
        version: The learner step of the parameters that acted.
        episodes: The episodes that ended, in a fixed order.
        nonfinite: The first value that was not finite, in words; empty if all were.
        spent_s: What the actor's thread has spent its time on since its start, in seconds.
    """

    trajectories: tuple[Trajectory, ...]
    version: int
    episodes: tuple[Episode, ...]
    nonfinite: str
    spent_s: Mapping[str, float]


class RolloutCodec:
    """Rollouts of one actor as bytes.

    Attributes:
        longest_bytes: Bytes of the longest rollout.
    """

    def __init__(self, rollout: Trajectory, num_pools: int):
        """Takes shapes and dtypes of one pool's trajectory, and the number of pools."""
        self._trees = TreeCodec((rollout,) * num_pools)
        self.longest_bytes = self._trees.size_bytes + _LONGEST_FACTS_BYTES

    def encode(self, rollout: SentRollout) -> bytes:
        """Returns a rollout's bytes.

        Raises:
            ValueError: If its trajectories have other shapes.
        """
        facts = {
            "version": rollout.version,
            "episodes": [[repr(total), length, _texts(numbers)] for total, length, numbers in rollout.episodes],
            "nonfinite": rollout.nonfinite,
            "spent_s": dict(rollout.spent_s),
        }
        return self._trees.encode(rollout.trajectories) + json.dumps(facts).encode()

    def decode(self, content: bytes) -> SentRollout:
        """Returns the rollout, whose arrays are views of its bytes.

        Raises:
            ValueError: If they are another.
        """
        trajectories, rest = self._trees.decode(content)
        facts = parse_message(rest)
        try:
            return SentRollout(
                trajectories=trajectories,
                version=whole(facts["version"], _MOST_VERSIONS),
                episodes=tuple(_read_episode(*episode) for episode in facts["episodes"]),
                nonfinite=str(facts["nonfinite"])[:2000],
                spent_s={str(bucket): seconds(spent) for bucket, spent in facts["spent_s"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a rollout of another form: {error}") from None


def _read_episode(total: str, length: int, numbers: Mapping[str, str]) -> Episode:
    return Episode(float(total), whole(length, 2**63), {name: float(text) for name, text in numbers.items()})


def _texts(numbers: Mapping[str, float]) -> dict[str, Any]:
    """Returns numbers as texts: those of Python restore every float, also those that JSON lacks."""
    return {name: repr(float(number)) for name, number in numbers.items()}
