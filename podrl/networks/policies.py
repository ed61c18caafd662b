"""The distribution over actions that suits an environment, and the head that computes its parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from podrl.actions import ActionSpace, ContinuousActions, DiscreteActions, HybridActions, MultiDiscreteActions
from podrl.config.config import NetworkConfig
from podrl.ops.categorical import make_categorical, make_multi_categorical
from podrl.ops.distributions import Distribution
from podrl.ops.gaussian import make_gaussian
from podrl.ops.hybrid import make_hybrid


def make_distribution(config: NetworkConfig, actions: ActionSpace) -> Distribution:
    """Creates the distribution over an environment's actions.

    Args:
        config: The `network` section; `squash_actions` and `initial_scale` apply to continuous actions.
        actions: The action space of one environment.
    """
    if isinstance(actions, DiscreteActions):
        return make_categorical(actions.num)
    if isinstance(actions, MultiDiscreteActions):
        return make_multi_categorical(actions.nums)
    numbers = make_gaussian(actions.size, squash=config.squash_actions, initial_scale=config.initial_scale)
    return make_hybrid(actions.nums, numbers) if isinstance(actions, HybridActions) else numbers


def num_free(config: NetworkConfig, actions: ActionSpace) -> int:
    """Returns how many of the policy's parameters do not depend on the observation: the shared scales, if any."""
    if not isinstance(actions, ContinuousActions | HybridActions) or config.action_scale != "shared":
        return 0
    return actions.size


def policy_head(
    module: nn.Module, features: jax.Array, num_params: int, free: int = 0, *, scale: float = 0.01
) -> jax.Array:
    """Computes the parameters of a policy, inside a module: features [..., F] -> [..., num_params].

    Small weights give nearly equal logits, or means near zero: a new policy acts at random, whatever the encoder's
    scale.

    Args:
        module: The module that gets the head's parameters, `policy` and `policy_free`.
        features: [..., F].
        num_params: How many parameters the policy has.
        free: How many of these, the last ones, do not depend on the features.
        scale: The scale of the weights.
    """
    init = nn.initializers.orthogonal(scale)
    policy = nn.Dense(num_params - free, kernel_init=init, name="policy")(features)
    if not free:
        return policy
    shared = module.param("policy_free", nn.initializers.zeros, (free,))
    return jnp.concatenate([policy, jnp.broadcast_to(shared, (*policy.shape[:-1], free))], axis=-1)
