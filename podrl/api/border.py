"""Between an environment and an agent: raw observations become the agent's, and its actions the environment's."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import gymnasium
from gymnasium.vector.utils import concatenate, create_empty_array
import jax
import numpy as np

from podrl.config.config import EnvConfig, check
from podrl.envs.action_masks import allows_nothing
from podrl.envs.observations import describe_observation
from podrl.envs.pools.gymnasium_pool import make_encodings
from podrl.envs.workers.batch import stack
from podrl.envs.workers.calls import describe_value
from podrl.envs.workers.info_mask import ENTRY, FROM_INFO, space_with_mask
from podrl.types import ACTION_MASK, EnvSpec, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Border:
    """How one kind of environment exchanges observations and actions with an agent.

    Attributes:
        encode: (raw observations of B environments) -> pytree of [B, ...] as the agent sees it.
        decode: (actions [B, ...]) -> [B] actions of the environment's own, an array or a list.
        stack: (raw observation of one environment) -> a batch of one.
        join: (what `decode` returns) -> the same as a vector environment takes it.
        mask_name: The action mask is `info[mask_name]`; empty if it is no part of `info`.
    """

    encode: Callable[[Any], PyTree]
    decode: Callable[[np.ndarray], Any]
    stack: Callable[[Any], Any]
    join: Callable[[Any], Any]
    mask_name: str = ""


def plain_border(spec: EnvSpec) -> Border:
    """Returns the border of an environment whose observations and actions have podrl's own form."""

    def convert(raw: Any) -> PyTree:
        return jax.tree.map(lambda struct, part: np.asarray(part, struct.dtype), spec.observation, raw)

    return Border(
        encode=convert,
        decode=lambda action: action,
        stack=lambda raw: jax.tree.map(lambda struct, part: np.asarray(part)[None], spec.observation, raw),
        join=lambda action: action,
    )


def gymnasium_border(observation: gymnasium.Space, action: gymnasium.Space, config: EnvConfig, spec: EnvSpec) -> Border:
    """Returns the border of an environment with Gymnasium's spaces.

    Args:
        observation: The observation space of one environment.
        action: The action space of one environment.
        config: The section `env` of the run, which says how observations are encoded.
        spec: What the agent was trained on.

    Raises:
        ConfigError: If the agent was trained on other observations or actions.
    """
    name = config.action_mask.removeprefix(FROM_INFO) if config.action_mask.startswith(FROM_INFO) else ""
    if name and not (isinstance(observation, gymnasium.spaces.Dict) and ENTRY in observation.spaces):
        observation = space_with_mask(observation, action, name)
    encoding, actions = make_encodings(observation, action, config)
    check(
        (encoding.struct, actions.actions) == (spec.observation, spec.actions),
        f"The environment observes {encoding.text} and takes {actions.actions}; the agent was trained on "
        f"{describe_observation(spec)} and {spec.actions}. Give an environment like env.id={config.id!r}.",
    )
    is_composite = isinstance(action, gymnasium.spaces.Dict | gymnasium.spaces.Tuple)

    def join(decoded: Any) -> Any:
        return concatenate(action, decoded, create_empty_array(action, len(decoded))) if is_composite else decoded

    def stack_one(raw: Any) -> Any:
        try:
            return stack(observation, [raw])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Found observation {describe_value(raw)}; expected one of {observation}. Call reset(n) for n "
                "environments at once."
            ) from error

    return Border(encode=encoding.encode, decode=actions.decode, stack=stack_one, join=join, mask_name=name)


def add_mask(observation: Any, info: Any, name: str, spec: EnvSpec, opens: np.ndarray | None) -> dict[str, Any]:
    """Returns raw observations with the action mask in `info` as an entry.

    Args:
        observation: Raw observation of one environment, or of a vector environment.
        info: What came with it.
        name: The mask's name in `info`.
        spec: What the agent was trained on.
        opens: [B] bool; which environments of a vector environment open an episode. The others may lack a mask where
            their episode has ended, as their next action is not made. None for one environment.

    Raises:
        ValueError: If the mask is missing, or has another size.
    """
    size = spec.observation[ACTION_MASK].shape[0]
    if info is None:
        raise ValueError(
            f"act(..., info=...) is missing: with env.action_mask={FROM_INFO}{name} it has the action masks. Give act "
            "what came with the observation, at every step."
        )
    masks = np.ones((1 if opens is None else len(opens), size), np.int8)
    for row, found in enumerate(_masks_in(info, name, opens)):
        if found is None and opens is not None and not opens[row]:
            continue
        if np.size(found) != size:
            said = "no such entry" if found is None else describe_value(found)
            raise ValueError(
                f"info[{name!r}] must have an action mask of {size} numbers for each environment "
                f"(env.action_mask={FROM_INFO}{name}); found {said}. "
                "Give act(..., info=...) what came with the observation."
            )
        masks[row] = np.ravel(found) != 0
    entries = observation if isinstance(observation, Mapping) else {"observation": observation}
    return {**entries, ENTRY: masks[0] if opens is None else masks}


def _masks_in(info: Mapping[str, Any], name: str, opens: np.ndarray | None) -> list[Any]:
    """Returns the mask of each environment, None where it is missing, as Gymnasium's vector environments tell it."""
    if opens is None:
        return [info.get(name)]
    is_there = info.get(f"_{name}", np.zeros(len(opens), bool))
    return [info[name][row] if is_there[row] else None for row in range(len(opens))]


def check_batch(observation: PyTree, spec: EnvSpec, num_envs: int) -> None:
    """Raises `ValueError` unless encoded observations are of as many environments as the policy was reset for."""
    found = jax.tree.map(lambda part: np.shape(part), observation)
    expected = jax.tree.map(lambda struct: (num_envs, *struct.shape), spec.observation)
    if found != expected:
        raise ValueError(
            f"Found observations of shape {found}; expected {expected}. Call reset() for one environment without a "
            "batch axis, or reset(n) for n of them."
        )


def allow_all_where_none_is(observation: PyTree, spec: EnvSpec) -> PyTree:
    """Returns observations whose action mask [B, L] allows something: after an episode's end many allow nothing."""
    if not isinstance(observation, Mapping) or ACTION_MASK not in observation:
        return observation
    mask = observation[ACTION_MASK]
    return {**observation, ACTION_MASK: mask | allows_nothing(mask, spec.actions)[:, None]}
