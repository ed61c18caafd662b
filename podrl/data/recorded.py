"""Episodes on their way into a data set."""

import dataclasses

import jax
import numpy as np

from podrl.config.config import check
from podrl.data.manifest import DataSpec
from podrl.data.trees import to_columns
from podrl.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedEpisode:
    """One episode, L steps.

    Attributes:
        observation: Pytree of [L+1, ...]; the last row is the true final observation.
        action: [L, ...]; taken in row t.
        reward: [L] float32; the result of `action[t]`.
        discount: [L] float32; 0 where `action[t]` terminated the episode, else 1. A truncated episode ends with 1.
        behaviour: Pytree of [L, ...]; what the acting policy recorded, `()` for nothing.
        params_version: [L] int32; the learner step of the parameters that acted, -1 for a policy without any.
        seed: The environment's seed, -1 if it is not known.
        number: Which of its environment's episodes it is, from 0.
        is_whole: Whether it begins with a reset, and was terminated or truncated by its environment.
    """

    observation: PyTree
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    behaviour: PyTree = ()
    params_version: np.ndarray | None = None
    seed: int = -1
    number: int = 0
    is_whole: bool = True

    @property
    def length(self) -> int:
        """Steps, L."""
        return len(self.reward)

    @property
    def size_bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(vars(self)) if isinstance(leaf, np.ndarray))


def check_finite_episode(episode: RecordedEpisode, source: str) -> None:
    """Checks that an episode has no number that would spoil what is learned from it.

    Args:
        episode: The episode.
        source: Where it is from, for the message.

    Raises:
        ConfigError: If an observation, action or reward is not finite.
    """
    for name in ("observation", "action", "reward"):
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(getattr(episode, name))]
        check(
            all(np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind == "f"),
            f"{source}: {name} of episode {episode.number}, seed {episode.seed}, has a number that is not finite. "
            "Nothing can be learned from it.",
        )


def episode_rows(episode: RecordedEpisode, spec: DataSpec) -> dict[str, np.ndarray]:
    """Returns the L + 1 rows of an episode by column.

    Raises:
        ValueError: If a column is missing, or of another shape.
    """
    last = {"discount": np.float32(1)}
    found = {
        **to_columns("action", episode.action),
        "reward": episode.reward,
        "discount": episode.discount,
        **to_columns("behaviour", episode.behaviour),
        **({} if episode.params_version is None else {"params_version": episode.params_version}),
    }
    rows = to_columns("observation", episode.observation)
    for name, steps in found.items():
        end = np.full((1, *np.shape(steps)[1:]), last.get(name, 0), np.asarray(steps).dtype)
        rows[name] = np.concatenate([steps, end])
    for name, struct in spec.columns.items():
        wanted = (episode.length + 1, *struct.shape)
        if name not in rows or np.shape(rows[name]) != wanted:
            raise ValueError(f"Found {name} {np.shape(rows.get(name, ()))} of an episode, expected {wanted}.")
        rows[name] = np.asarray(rows[name], struct.dtype)
    return rows
