"""A temperature, the weight of a policy's entropy in its loss, that is learned so that the entropy stays near a target.

Source: Haarnoja et al. 2018, arXiv:1812.05905, section 5.
"""

import jax
from jax import numpy as jnp

from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.types import LearnerState, PyTree


def init_temperature(optimizer: OptimizerOverRun, temperature: float) -> dict[str, PyTree]:
    """Returns the parts of `LearnerState.extra` for a first temperature."""
    log_temperature = jnp.log(jnp.float32(temperature))
    return {"log_temperature": log_temperature, "temperature_optimizer": optimizer.init(log_temperature)}


def move_temperature(optimizer: OptimizerOverRun, state: LearnerState, excess: jax.Array) -> dict[str, PyTree]:
    """Takes one step of the logarithm of the temperature, down `excess` times it.

    Args:
        optimizer: Its optimizer.
        state: The state.
        excess: []; the policy's entropy above its target, in nats; zero where nothing was learned from.

    Returns:
        The parts of `LearnerState.extra` that change.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, equation 18, with the logarithm in place of the temperature.
    """
    log_temperature, optimizer_state = optimizer.move(
        state.step, state.extra["log_temperature"], state.extra["temperature_optimizer"], excess
    )
    return {"log_temperature": log_temperature, "temperature_optimizer": optimizer_state}
