"""How agents act that have a learned model: by the policy that it predicts, without looking ahead."""

from collections.abc import Callable

import jax

from podrl.agents.parts.acting import make_acting
from podrl.agents.parts.actor_critic import make_init, make_initial_carry
from podrl.agents.parts.interface import Agent, Batch
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.networks.interface import ModelNetwork
from podrl.types import LearnerState, Metrics, PyTree, Timestep


def make_model_agent(
    network: ModelNetwork,
    optimizer: OptimizerOverRun,
    learn: Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array | None]],
) -> Agent:
    """Returns an agent that acts by its model's policy and records nothing; only how it learns is its own.

    Args:
        network: The model.
        optimizer: Makes the first state of the optimizer.
        learn: `Agent.learn`.
    """

    def evaluate(params: PyTree, timestep: Timestep, carry: PyTree) -> tuple[jax.Array, PyTree]:
        state, carry = network.step(params, timestep, carry)
        return network.predict(params, state.latent, state.mask).policy, carry

    act, act_greedy = make_acting(
        network,
        evaluate,
        sample=lambda params, keys, policy: network.policy.sample(keys, policy),
        best=network.policy.mode,
    )
    return Agent(
        init=make_init(network, optimizer),
        initial_carry=make_initial_carry(network),
        actor_params=lambda state: state.params,
        act=act,
        act_greedy=act_greedy,
        learn=learn,
        keep=network.keep,
    )
