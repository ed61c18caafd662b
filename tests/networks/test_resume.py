"""A carry made anew of what a ring keeps and of the rows before is the one that the actor had."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions, MultiDiscreteActions
from podrl.config.config import NetworkConfig
from podrl.networks.action_values import make_q_network
from podrl.networks.actor_critic import make_actor_critic
from podrl.types import ACTION_MASK, VECTOR, EnvSpec
from tests.networks.test_actor_critic import MEMORY, random_unroll, timestep_of

ROWS, ENVS = 9, 6
FLOATS = jax.ShapeDtypeStruct((5,), jnp.float32)
CAMERA, MASK = jax.ShapeDtypeStruct((6, 5, 2), jnp.uint8), jax.ShapeDtypeStruct((4,), jnp.bool_)
OBSERVATIONS = {
    "vector": FLOATS,
    "image": CAMERA,
    "parts": {"eyes/left": CAMERA, "eyes/right": CAMERA, VECTOR: FLOATS, ACTION_MASK: MASK},
}


def make_network(kind, frame_stack, memory):
    spec = EnvSpec(id="Test-v0", observation=OBSERVATIONS[kind], actions=DiscreteActions(4))
    encoder = "mlp" if kind == "vector" else "minatar"
    return make_q_network(NetworkConfig(encoder=encoder, frame_stack=frame_stack, **memory), spec), spec


def carries_of_actor(network, trajectory):
    """The carry before each row, from the first."""
    params, step = jax.jit(network.init)(jax.random.key(0)), jax.jit(network.step)
    carry, found = trajectory.carry, []
    for t in range(ROWS):
        found.append(carry)
        _, carry = step(params, timestep_of(trajectory, t), carry)
        carry = network.remember(carry, trajectory.action[t]) if t < ROWS - 1 else carry
    return found


@pytest.mark.parametrize("memory", [{}, {"last_action": True}, MEMORY], ids=["none", "action", "lstm"])
@pytest.mark.parametrize(("kind", "frame_stack"), [("vector", 1), ("vector", 3), ("image", 4), ("parts", 3)])
def test_a_carry_is_that_of_the_actor(kind, frame_stack, memory):
    """Of every row with enough rows before it, with resets among them and at the row itself."""
    network, spec = make_network(kind, frame_stack, memory)
    trajectory = random_unroll(network, spec, ROWS, ENVS)
    assert trajectory.first[1:].any(axis=1).sum() > 4
    before, resume = max(frame_stack - 1, 1), jax.jit(network.resume)
    for t, carry in enumerate(carries_of_actor(network, trajectory)):
        if t < before:
            continue
        rows = slice(t - before, t)
        part = dataclasses.replace(
            trajectory,
            observation=jax.tree.map(lambda x, rows=rows: x[rows], trajectory.observation),
            first=trajectory.first[rows],
            action=trajectory.action[rows],
        )
        jax.tree.map(np.testing.assert_array_equal, resume(network.keep(carry), part), carry)


@pytest.mark.parametrize(("memory", "leaves"), [({"last_action": True}, 0), (MEMORY, 2)])
def test_a_ring_keeps_the_cores_state_alone(memory, leaves):
    network, _ = make_network("image", 4, memory)
    kept = jax.tree.leaves(network.keep(network.initial_carry(3)))
    assert [x.shape for x in kept] == [(3, 16)] * leaves


def test_so_it_is_for_several_actions_of_an_actor_critic():
    spec = EnvSpec(id="Test-v0", observation=FLOATS, actions=MultiDiscreteActions((2, 3)))
    network = make_actor_critic(NetworkConfig(frame_stack=2, last_action=True), spec)
    trajectory = random_unroll(network, spec, ROWS, ENVS)
    carry = carries_of_actor(network, trajectory)[4]
    part = dataclasses.replace(
        trajectory, observation=trajectory.observation[3:4], first=trajectory.first[3:4], action=trajectory.action[3:4]
    )
    jax.tree.map(np.testing.assert_array_equal, network.resume(network.keep(carry), part), carry)
