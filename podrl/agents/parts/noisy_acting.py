"""Acting with noise on a network's weights, drawn anew at every step, in each environment another one."""

from collections.abc import Callable

import jax

from podrl.agents.parts.actor_critic import make_init, make_initial_carry
from podrl.agents.parts.interface import Agent, Batch
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.networks.interface import AtomNetwork
from podrl.ops.q_values import epsilon_greedy, greedy_action
from podrl.types import LearnerState, Metrics, PyTree, Timestep


def make_noisy_agent(
    network: AtomNetwork,
    optimizer: OptimizerOverRun,
    learn: Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array | None]],
    *,
    epsilon: float,
) -> Agent:
    """Returns an agent that takes the best action by noisy values; only how it learns is its own.

    It records nothing. What it takes for best has no noise.

    Args:
        network: The network of action values.
        optimizer: Makes the first state of the optimizer.
        learn: `Agent.learn`.
        epsilon: The probability of an action at random, beside the noise.

    Source: Fortunato et al. 2018, arXiv:1706.10295, section 3.1.
    """

    def act(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree, PyTree]:
        noise_keys, action_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        output, carry = network.step(network.add_noise(params, noise_keys), timestep, carry)
        action = epsilon_greedy(action_keys, output.q_values, epsilon)
        return action, {}, network.remember(carry, action)

    def act_greedy(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree]:
        output, carry = network.step(params, timestep, carry)
        action = greedy_action(output.q_values)
        return action, network.remember(carry, action)

    return Agent(
        init=make_init(network, optimizer),
        initial_carry=make_initial_carry(network),
        actor_params=lambda state: state.params,
        act=act,
        act_greedy=act_greedy,
        learn=learn,
        keep=network.keep,
    )
