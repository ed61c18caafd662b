"""How a learned model improves a policy: by looking one step ahead, at all actions or at samples, or by a tree search.

The policy that is improved, and what is looked at, are those of one set of parameters, an agent's target network.

Source: Liu et al. 2023, arXiv:2210.05980, section 3; the tree search: Schrittwieser et al. 2021, arXiv:2104.06294.
"""

from collections.abc import Callable
import functools
import importlib.util
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp

from podrl.config.config import check
from podrl.config.extras import install_command
from podrl.networks.interface import ModelNetwork
from podrl.networks.model_records import ModelOutput
from podrl.ops.improvement import improve_policy, sampled_improvement
from podrl.ops.keys import step_keys
from podrl.ops.two_hot import decode_number
from podrl.types import PyTree

IMPROVEMENTS = ("mcts", "one_step", "sampled")


@struct.dataclass(kw_only=True)
class Roots:
    """States to look ahead from, [B, R].

    Attributes:
        latent: [B, R, *].
        output: [B, R, ...] what the model predicts of them; forbidden actions have logits of -inf.
        action: [B, R] the actions that the data have there.
        key: [B, R] typed PRNG keys.
    """

    latent: jax.Array
    output: ModelOutput
    action: jax.Array
    key: jax.Array


@struct.dataclass(kw_only=True)
class Improved:
    """What looking ahead finds.

    Attributes:
        policy: [B, R, A] weights of the actions in a cross entropy.
        advantage: [B, R] of the data's actions; zeros for a tree search, which does not look at them.
    """

    policy: jax.Array
    advantage: jax.Array


Improve = Callable[[PyTree, Roots], Improved]


def make_improvement(config: Any, network: ModelNetwork) -> Improve:
    """Returns how an agent improves its policy: (params, roots) -> what it finds.

    Args:
        config: The agent's config, with `improvement`, `discount`, `samples`, `simulations` and `max_advantage`.
        network: The model, of one discrete action.

    Raises:
        ConfigError: If a tree search is asked for and mctx is not installed.
    """
    if config.improvement == "mcts":
        check(
            importlib.util.find_spec("mctx") is not None,
            f"agent.improvement='mcts' needs mctx: {install_command('mctx')}.",
        )
    improve = {"one_step": _look_at_all, "sampled": _look_at_samples, "mcts": _search_trees}[config.improvement]
    return functools.partial(improve, config, network)


def row_keys(key: jax.Array, env_index: jax.Array, num_rows: int) -> jax.Array:
    """Returns a key [B, R] for each row of each sequence, the same in any part of a batch and on any devices."""
    by_sequence = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, env_index)
    return jax.vmap(step_keys, in_axes=(None, 0), out_axes=1)(by_sequence, jnp.arange(num_rows))


def advantages_of(
    network: ModelNetwork, params: PyTree, roots: Roots, actions: jax.Array, discount: float
) -> jax.Array:
    """Computes r + discount V(s') - V(s) of some actions, by the model's own rewards, next states and values.

    Args:
        network: The model.
        params: Its parameters.
        roots: [B, R].
        actions: [B, R, N] integers.
        discount: The agent's discount.

    Returns:
        [B, R, N].

    Source: Liu et al. 2023, arXiv:2210.05980, section 3.
    """
    latent = jnp.broadcast_to(jnp.expand_dims(roots.latent, 2), (*actions.shape, *roots.latent.shape[2:]))
    output = network.predict(params, network.transition(params, latent, actions))
    ahead = decode_number(output.reward) + discount * decode_number(output.value)
    return ahead - decode_number(roots.output.value)[..., None]


def _look_at_all(config: Any, network: ModelNetwork, params: PyTree, roots: Roots) -> Improved:
    logits = roots.output.policy
    actions = jnp.broadcast_to(jnp.arange(logits.shape[-1]), logits.shape)
    advantages = advantages_of(network, params, roots, actions, config.discount)
    taken = jnp.sum(jnp.where(actions == roots.action[..., None], advantages, 0.0), axis=-1)
    return Improved(policy=improve_policy(logits, _clip(config, advantages)), advantage=taken)


def _look_at_samples(config: Any, network: ModelNetwork, params: PyTree, roots: Roots) -> Improved:
    logits, num = roots.output.policy, config.samples

    def sample(key: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.random.categorical(key, logits, shape=(num,)).astype(jnp.int32)

    sampled = jax.vmap(jax.vmap(sample))(roots.key, logits)
    actions = jnp.concatenate([sampled, roots.action[..., None]], axis=-1)
    advantages = advantages_of(network, params, roots, actions, config.discount)
    weights = sampled_improvement(sampled, _clip(config, advantages[..., :num]), logits.shape[-1])
    return Improved(policy=weights, advantage=advantages[..., num])


def _search_trees(config: Any, network: ModelNetwork, params: PyTree, roots: Roots) -> Improved:
    """Returns the shares of the visits of MuZero's search, with noise in its roots; each sequence has its own keys."""
    import mctx

    def follow(params: PyTree, key: jax.Array, action: jax.Array, latent: jax.Array) -> tuple[Any, jax.Array]:
        latent = network.transition(params, latent, action)
        output = network.predict(params, latent)
        value = decode_number(output.value)
        step = mctx.RecurrentFnOutput(
            reward=decode_number(output.reward),
            discount=jnp.full_like(value, config.discount),
            prior_logits=output.policy,
            value=value,
        )
        return step, latent

    def search(roots: Roots) -> jax.Array:
        logits = roots.output.policy
        root = mctx.RootFnOutput(
            prior_logits=jnp.where(jnp.isneginf(logits), jnp.finfo(logits.dtype).min, logits),
            value=decode_number(roots.output.value),
            embedding=roots.latent,
        )
        forbidden = jnp.isneginf(logits).astype(jnp.int32)
        found = mctx.muzero_policy(params, roots.key[0], root, follow, config.simulations, invalid_actions=forbidden)
        return found.action_weights

    return Improved(policy=jax.vmap(search)(roots), advantage=jnp.zeros(roots.action.shape))


def _clip(config: Any, advantages: jax.Array) -> jax.Array:
    """Clips advantages before their exponential is taken; `max_advantage=0` leaves them unchanged."""
    limit = config.max_advantage
    return jnp.clip(advantages, -limit, limit) if limit else advantages
