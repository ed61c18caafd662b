"""What a learned model is unrolled along, and what it learns there.

Rows are [B, R], environments first, as a model's latents are. Row k is the state behind k actions of a sequence. The
first is made of an observation, all others of the latent before and an action.

Source: Schrittwieser et al. 2020, arXiv:1911.08265, section 3 and appendix G.
"""

from typing import Any

from flax import struct
import jax
from jax import numpy as jnp

from podrl.agents.parts.planning import Improve, Roots, row_keys
from podrl.agents.parts.sequences import take_transitions
from podrl.networks.interface import ModelNetwork
from podrl.networks.model_records import LatentState, ModelOutput
from podrl.ops.absorbing import absorbing_returns, follow_episodes
from podrl.ops.returns import clip_reward
from podrl.ops.two_hot import decode_number
from podrl.types import PyTree, Sample, Trajectory


@struct.dataclass(kw_only=True)
class ModelTargets:
    """What a model learns along sequences of K actions.

    Attributes:
        action: [B, K] int32; what the model is unrolled along: the data's actions, and random ones behind their end.
        mask: [B, K+1, A] bool; which actions the environment allows; None without a mask.
        reward: [B, K]; of these actions, zero where the episode has ended.
        value: [B, K+1]; returns, zero where the episode has ended.
        policy: [B, K+1, A]; the improved policy, uniform where the episode has ended.
        taken: [B, K+1] int32; the data's actions.
        is_better: [B, K+1] bool; the data's action is a step of the episode, and has an advantage.
        is_known: [B, K+1] bool; the row is a state of the episode, or behind its end.
        is_known_step: [B, K] bool; what the action earns is known.
    """

    action: jax.Array
    mask: jax.Array | None
    reward: jax.Array
    value: jax.Array
    policy: jax.Array
    taken: jax.Array
    is_better: jax.Array
    is_known: jax.Array
    is_known_step: jax.Array


def make_targets(
    config: Any, network: ModelNetwork, improve: Improve, target: PyTree, trajectory: Trajectory, key: jax.Array
) -> ModelTargets:
    """Computes what a model learns along sequences, by a target network.

    Args:
        config: The agent's config, with `discount`, `n_steps`, `unroll_steps`, `reward_scale` and `max_reward`.
        network: The model.
        improve: How policies are improved.
        target: The target network's parameters.
        trajectory: [T, B], with the network's carry; K is `unroll_steps`, or T if that is less.
        key: A key; each row of each sequence folds in its own numbers.
    """
    steps, env_index = num_unrolled(config, trajectory), trajectory.env_index
    action_key, improve_key = jax.random.split(key)
    rows = follow_episodes(trajectory.discount, trajectory.is_transition)
    absorbed, is_step = _swap(rows.is_absorbed[: steps + 1]), _swap(rows.is_step[:steps])
    states: LatentState = jax.tree.map(_swap, network.unroll(target, trajectory)[0])
    mask = None if states.mask is None else states.mask[:, : steps + 1] | absorbed[..., None]
    latent = states.latent[:, : steps + 1]
    output, behind = network.predict(target, latent, mask), network.predict(target, states.latent[:, steps + 1 :])
    values = decode_number(jnp.concatenate([output.value, behind.value], axis=1))
    rewards = clip_reward(trajectory.reward * config.reward_scale, config.max_reward)
    returns = absorbing_returns(
        _swap(values),
        rewards,
        trajectory.discount * config.discount,
        trajectory.is_transition,
        num_steps=config.n_steps,
    )
    taken, acted = (_swap(_pad(x[: steps + 1], steps + 1)) for x in (trajectory.action, rows.is_step))
    keys = row_keys(improve_key, env_index, steps + 1)
    found = improve(target, Roots(latent=latent, output=output, action=taken, key=keys))
    num_actions = output.policy.shape[-1]
    anything = _draw_actions(row_keys(action_key, env_index, steps), num_actions)
    return ModelTargets(
        action=jnp.where(is_step, taken[:, :steps], anything),
        mask=mask,
        reward=jnp.where(is_step, _swap(rewards[:steps]), 0.0),
        value=_swap(returns[: steps + 1]),
        policy=jnp.where(absorbed[..., None], 1 / num_actions, found.policy),
        taken=taken,
        is_better=acted & (found.advantage > 0),
        is_known=_swap(rows.is_known[: steps + 1]),
        is_known_step=_swap(rows.is_known_step[:steps]),
    )


def count_known(config: Any, sample: Sample) -> dict[str, jax.Array]:
    """Returns how many `rows`, `steps` and `actions` of the data a sample has to learn from, [] float32 each."""
    trajectory = sample.trajectory
    steps, rows = num_unrolled(config, trajectory), follow_episodes(trajectory.discount, trajectory.is_transition)
    known = {
        "rows": rows.is_known[: steps + 1],
        "steps": rows.is_known_step[:steps],
        "actions": rows.is_step[: steps + 1],
    }
    return {name: jnp.sum(x, dtype=jnp.float32) for name, x in known.items()}


def unroll_model(network: ModelNetwork, params: PyTree, trajectory: Trajectory, targets: ModelTargets) -> ModelOutput:
    """Predicts along the actions of `targets`, from the first observation of a trajectory alone.

    Half of a state's gradient flows on to the state before, so that the transition does not get more of it the longer
    the unroll is.

    Returns:
        [B, K+1, ...].

    Source: Schrittwieser et al. 2020, arXiv:1911.08265, appendix G.
    """
    opening, _ = network.unroll(params, take_transitions(trajectory, 0, 0))
    first = opening.latent[0]

    def follow(latent: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        latent = _halve_gradient(network.transition(params, latent, action))
        return latent, latent

    _, behind = jax.lax.scan(follow, first, _swap(targets.action))
    return network.predict(params, _swap(jnp.concatenate([first[None], behind])), targets.mask)


def num_unrolled(config: Any, trajectory: Trajectory) -> int:
    """Returns K, the actions that the model is unrolled along."""
    return min(config.unroll_steps, len(trajectory.reward))


def _halve_gradient(x: jax.Array) -> jax.Array:
    return (x + jax.lax.stop_gradient(x)) / 2


def _swap(x: jax.Array) -> jax.Array:
    """Transposes [T, B, ...] to [B, T, ...], or back."""
    return jnp.swapaxes(x, 0, 1)


def _draw_actions(keys: jax.Array, num: int) -> jax.Array:
    """Draws an action for each of the keys [B, R], all alike."""
    return jax.vmap(jax.vmap(lambda key: jax.random.randint(key, (), 0, num)))(keys)


def _pad(x: jax.Array, num_rows: int) -> jax.Array:
    """Appends rows of zeros to [R, B] up to `num_rows`."""
    return jnp.pad(x, ((0, num_rows - len(x)), (0, 0)))
