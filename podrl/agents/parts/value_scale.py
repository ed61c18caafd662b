"""PopArt in an actor-critic agent: its state beside the agent's own, its metrics, and the step that moves it."""

import dataclasses

import jax
from jax import numpy as jnp

from podrl.agents.parts.interface import Agent
from podrl.config.popart import PopArtConfig
from podrl.networks.interface import Network
from podrl.ops.losses import masked_mean
from podrl.ops.popart import PopArt, initial_popart, move_popart, preserving_change
from podrl.types import LearnerState, Metrics, Trajectory


def with_value_scale(agent: Agent, config: PopArtConfig) -> Agent:
    """Returns the agent with PopArt's first statistics in `LearnerState.extra["popart"]`, if values are normalised."""
    if not config.enabled:
        return agent

    def init(key: jax.Array) -> LearnerState:
        state = agent.init(key)
        return dataclasses.replace(state, extra={**(state.extra or {}), "popart": initial_popart()})

    return dataclasses.replace(agent, init=init)


def popart_moments(
    popart: PopArt | None, targets: jax.Array, mask: jax.Array, num_transitions: jax.Array | None = None
) -> Metrics:
    """Computes the moments that move the statistics, as metrics that add up over the parts of a batch.

    Args:
        popart: The statistics; None if values are not normalised, which has no such metrics.
        targets: [T, B] normalised value targets.
        mask: [T, B] bool; the rows that count.
        num_transitions: [] real transitions in the whole batch; None if this is the whole.
    """
    if popart is None:
        return {}
    return {
        "value/normalized_target": masked_mean(targets, mask, count=num_transitions),
        "value/normalized_target_square": masked_mean(jnp.square(targets), mask, count=num_transitions),
    }


def move_value_scale(
    config: PopArtConfig, network: Network, state: LearnerState, metrics: Metrics, trajectory: Trajectory
) -> tuple[LearnerState, Metrics]:
    """Moves PopArt's statistics after an agent's optimizer steps, and rescales the value head so that no value changes.

    Args:
        config: The section `agent.popart`.
        network: The actor-critic.
        state: The state after the steps; `extra["popart"]` has the statistics if values are normalised.
        metrics: The metrics of the steps, with `popart_moments`.
        trajectory: [T, B]; what the steps learned from.

    Returns:
        The state and the metrics, with the statistics that the steps used; both unchanged if values are not normalised.
    """
    if not config.enabled:
        return state, metrics
    before: PopArt = state.extra["popart"]
    after = move_popart(
        before,
        metrics["value/normalized_target"],
        metrics["value/normalized_target_square"],
        jnp.any(trajectory.is_transition),
        rate=config.rate,
        min_scale=config.min_scale,
        max_scale=config.max_scale,
    )
    params = network.scale_value(state.params, *preserving_change(before, after))
    state = dataclasses.replace(state, params=params, extra={**state.extra, "popart": after})
    return state, {**metrics, "value/scale": before.scale, "value/shift": before.mean}
