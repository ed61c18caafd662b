"""The distribution over actions that suits an environment."""

from podrl.actions import ActionSpace, DiscreteActions, HybridActions, MultiDiscreteActions
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
