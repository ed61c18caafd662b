"""Which recorded transitions or sequences a batch is made of: pure functions of (seed, update).

They give the indices of the whole batch, the same on the host, inside a compiled program and on any number of devices
and processes; each process reads the rows of its own. So an offline run resumes from its counter alone.

An episode is drawn in proportion to its weight times its starts, then one of its starts. Sums go down a tree
(`podrl.replay.sampling`): a running float32 sum over 10^6 episodes would never draw some of them.

Return-based rebalance weighs each transition by w = (R - R_min) / (R_max - R_min) + p_base, where R is the return of
its whole episode, never what is left of it. Either such transitions are drawn more often, or they are drawn alike and
weighted in the loss by N p. Decoupled, a rebalanced stream is for the improvement of the policy, and a uniform one for
its evaluation.

Source: Yue et al. 2022, Boosting offline reinforcement learning via data rebalancing, arXiv:2210.09241.
"""

from collections.abc import Sequence
import dataclasses
import functools

from flax import struct
import jax
from jax import numpy as jnp
import numpy as np

from podrl.agents.parts.recorded import REBALANCED, UNIFORM
from podrl.config.config import check_one_of
from podrl.data.shards import EpisodeFacts
from podrl.ops.keys import DATA, purpose_key
from podrl.replay.sampling import draw_by_priority

REBALANCES = ("none", "resample", "weight", "decouple")


@struct.dataclass(kw_only=True)
class RecordedDraws:
    """What K batches of B are made of.

    Attributes:
        episode: [K, B] int32; the position among the episodes that could be drawn.
        step: [K, B] int32; the first step in that episode.
        number: [B] uint32; the number of each sample in the whole batch.
    """

    episode: jax.Array
    step: jax.Array
    number: jax.Array

    def share(self, columns: slice) -> "RecordedDraws":
        """Returns some samples of each batch, such as those of one process."""
        return RecordedDraws(episode=self.episode[:, columns], step=self.step[:, columns], number=self.number[columns])


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamRule:
    """How one stream of samples is drawn.

    Attributes:
        name: The stream's name in `Batch.recorded`.
        number: Which stream it is; streams of other numbers draw independently.
        priority: [E] float32; the weight of each episode's transitions in drawing.
        weight: [E] float32; their weight in the loss.
    """

    name: str
    number: int
    priority: np.ndarray
    weight: np.ndarray


def make_streams(rebalance: str, facts: EpisodeFacts, *, p_base: float = 0.0) -> Sequence[StreamRule]:
    """Makes the streams that a run learns from.

    Args:
        rebalance: `none`, `resample` to draw by return, `weight` to draw alike and weigh the loss by return, or
            `decouple` for a stream drawn by return beside the uniform one.
        facts: Facts of all E episodes of the data set, not only of those in a window.
        p_base: Added to each weight. With 0 the worst episode is drawn only from a window in which no other is.

    Raises:
        ConfigError: If `rebalance` is anything else.
    """
    check_one_of("data.rebalance", rebalance, REBALANCES)
    ones = np.ones(len(facts.length), np.float32)
    alike = StreamRule(name=UNIFORM, number=0, priority=ones, weight=ones)
    if rebalance == "none":
        return (alike,)
    by_return = return_weights(facts, p_base)
    if rebalance == "weight":
        mean = np.average(by_return, weights=facts.length)
        return (dataclasses.replace(alike, weight=(by_return / mean).astype(np.float32)),)
    if rebalance == "resample":
        return (dataclasses.replace(alike, priority=by_return.astype(np.float32)),)
    return (alike, StreamRule(name=REBALANCED, number=1, priority=by_return.astype(np.float32), weight=ones))


def return_weights(facts: EpisodeFacts, p_base: float = 0.0) -> np.ndarray:
    """Computes the weight of each episode's transitions, [E] float64, by the return of the episode.

    Where all returns are equal, all weights are 1. An episode that is not whole has the return of a part: it does not
    count for the least and the greatest, and its weight is `p_base`.

    Args:
        facts: Facts of E episodes.
        p_base: Added to each weight.

    Source: Yue et al. 2022, arXiv:2210.09241, equation 4.
    """
    whole = facts.episode_return[facts.is_whole]
    if not whole.size or whole.max() == whole.min():
        return np.ones(len(facts.length))
    scaled = (facts.episode_return - whole.min()) / (whole.max() - whole.min())
    weights = np.where(facts.is_whole, scaled, 0.0) + p_base
    return weights if np.any(weights * facts.length > 0) else np.ones(len(facts.length))


def count_starts(length: np.ndarray, sequence_length: int, *, fit: bool = False) -> np.ndarray:
    """Returns how many starts each episode has, [E] int32.

    Args:
        length: [E]; steps of each episode.
        sequence_length: Steps of a sequence; 1 for transitions.
        fit: Whether a sequence must end within its episode, if the episode is as long as that. Otherwise it starts at
            every step, and what lies behind the episode's end is no transition.
    """
    if not fit:
        return length.astype(np.int32)
    return np.where(length > 0, np.maximum(length - sequence_length + 1, 1), 0).astype(np.int32)


def draw_key(seed: int, stream: int, update: int | jax.Array) -> jax.Array:
    """Returns the typed PRNG key of one update's draws from one stream."""
    return jax.random.fold_in(jax.random.fold_in(purpose_key(seed, DATA), stream), update)


@functools.partial(jax.jit, static_argnums=(2, 3))
def draw_recorded(
    priority: jax.Array, starts: jax.Array, num_batches: int, batch: int, key: jax.Array
) -> RecordedDraws:
    """Draws what several batches are made of, with replacement.

    Args:
        priority: [W] float32; the weight of the transitions of each episode that can be drawn, not negative.
        starts: [W] int32; its starts, 0 for an episode that cannot be drawn. If no episode has both a weight and a
            start, as when a window has only the worst ones, starts alone decide: all are drawn alike.
        num_batches: K.
        batch: B.
        key: A typed PRNG key; consumed.
    """
    episode_key, step_key = jax.random.split(key)
    share = priority * starts
    share = jnp.where(jnp.any(share > 0), share, starts.astype(share.dtype))
    episode, _ = draw_by_priority(num_batches * batch, share, episode_key)
    step = jax.random.randint(step_key, episode.shape, 0, jnp.maximum(starts[episode], 1))
    return RecordedDraws(
        episode=episode.reshape(num_batches, batch),
        step=step.reshape(num_batches, batch),
        number=jnp.arange(batch, dtype=jnp.uint32),
    )
