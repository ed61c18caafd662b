"""Action masks: which options of an environment's choices can be taken at this step.

A mask is [B, L] bool, the options of all choices one after the other. Where several choices are made at once and the
environment's mask has an entry for each *combination* of them, such as one for each field of a board, the combinations
become the options of a single choice.
"""

from collections.abc import Mapping
import dataclasses
import functools
import itertools
import operator
from typing import Any

from jax import numpy as jnp
import numpy as np

from podrl.actions import (
    ActionSpace,
    ContinuousActions,
    DiscreteActions,
    MultiDiscreteActions,
    mask_sizes,
    num_logits,
    options_of,
    sample_allowed,
)
from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.encodings import Encoding
from podrl.envs.spaces import ActionEncoding
from podrl.envs.workers.calls import EnvFailure
from podrl.types import ACTION_MASK, Timestep, Trajectory


def fit_to_mask(actions: ActionEncoding, encoding: Encoding, config: EnvConfig) -> ActionEncoding:
    """Returns the actions that the mask of an observation is for.

    Raises:
        ConfigError: if it fits neither the options of the environment's choices nor their combinations.
    """
    size, spaces = encoding.mask_size, actions.actions
    if not size or size == num_logits(spaces):
        return actions
    if isinstance(spaces, MultiDiscreteActions) and size in mask_sizes(spaces):
        nums = spaces.nums

        def decode(action: np.ndarray) -> Any:
            return actions.decode(np.stack(np.unravel_index(action, nums), axis=-1).astype(np.int32))

        return dataclasses.replace(actions, actions=DiscreteActions(size), decode=decode)
    wanted = (
        "no mask, as they are numbers" if isinstance(spaces, ContinuousActions) else f"{num_logits(spaces)} options"
    )
    raise ConfigError(
        f"env.action_mask={config.action_mask!r}: env.id={config.id!r} gives a mask of {size}, and its actions have "
        f"{wanted}. Name another entry, or let the agent see this one as a part of the observation: "
        "env.action_mask=none."
    )


def allows_nothing(mask: Any, actions: ActionSpace) -> Any:
    """Returns [...] bool: whether a mask [..., L] of NumPy or JAX allows no option of some choice."""
    bounds = itertools.accumulate(options_of(actions), initial=0)
    can_choose = [mask[..., start:end].any(axis=-1) for start, end in itertools.pairwise(bounds)]
    return ~functools.reduce(operator.and_, can_choose)


def count_stuck(trajectory: Trajectory, actions: ActionSpace) -> Any:
    """Returns in how many steps of a trajectory the mask allows no action, [] int32; `()` without a mask.

    Where an episode has ended none need be allowed, as the next action is not made.
    """
    observation = trajectory.observation
    if not isinstance(observation, Mapping) or ACTION_MASK not in observation:
        return ()
    stuck = allows_nothing(observation[ACTION_MASK][:-1], actions) & trajectory.is_transition
    return jnp.sum(stuck, dtype=jnp.int32)


def random_actions(actions: ActionSpace, rng: np.random.Generator, timestep: Timestep) -> np.ndarray:
    """Random actions [B, ...] for a timestep of [B], of those that its mask allows."""
    observation = timestep.observation
    if isinstance(observation, Mapping) and ACTION_MASK in observation:
        return sample_allowed(actions, rng, np.asarray(observation[ACTION_MASK]))
    return actions.sample(rng, np.shape(timestep.reward))


class MaskCheck:
    """Checks the masks of a pool's timesteps."""

    def __init__(self, actions: ActionEncoding, encoding: Encoding, env_id: str):
        """Checks nothing where `encoding` has no mask."""
        nums = options_of(actions.actions)
        self._starts = np.cumsum((0, *nums))[:-1] if encoding.mask_size else None
        self._num_choices, self._env_id = len(nums), env_id

    def checked(self, timestep: Timestep, ended: np.ndarray) -> Timestep:
        """Returns the timestep; where an episode has ended, every option is allowed.

        The action after an episode's last observation is not made: the environment is reset instead. Many environments
        allow none there.

        Args:
            timestep: the timestep of [B].
            ended: [B] bool; the timestep ended the episode.

        Raises:
            EnvFailure: if an environment allows no option of a choice.
        """
        if self._starts is None:
            return timestep
        mask = timestep.observation[ACTION_MASK] | ended[:, None]
        stuck = np.argwhere(~np.logical_or.reduceat(mask, self._starts, axis=1))
        if len(stuck):
            row, choice = stuck[0]
            which = f" of choice {choice}" if self._num_choices > 1 else ""
            raise EnvFailure(
                f"Environment {row} of the pool (env.id={self._env_id!r}): its action mask allows no action{which}. An "
                "environment must allow one, or end the episode."
            )
        return dataclasses.replace(timestep, observation={**timestep.observation, ACTION_MASK: mask})
