"""A Flax module as pure functions of timesteps and trajectories, whatever its heads put out.

A single step is an unroll of one row, so that acting and learning run the same network.
"""

import dataclasses

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp

from podrl.config.config import NetworkConfig
from podrl.networks import frame_stack
from podrl.networks.core import initial_core_state
from podrl.networks.interface import Network, NetworkOutput
from podrl.networks.last_inputs import encode_last
from podrl.networks.rows import NetworkRows, row_of, rows_of, swap
from podrl.ops.distributions import Distribution
from podrl.types import ActionSpace, EnvSpec, PyTree, Timestep, Trajectory


@struct.dataclass(kw_only=True)
class Carry:
    """The network's state between rows. A part that the network does not have is `()`.

    Attributes:
        frames: [B, ...]; the frames before the current one, see `podrl.networks.frame_stack`.
        action: [B, ...]; the last action.
        core: The core's state.
    """

    frames: PyTree = ()
    action: PyTree = ()
    core: PyTree = ()


def make_network(module: nn.Module, policy: Distribution, config: NetworkConfig, spec: EnvSpec) -> Network:
    """Returns the functions of a module.

    Args:
        module: Takes stacked observations [B, T, ...], the encoded last action and reward [B, T, F] or None, `first`
            [B, T] and the core's state before row 0; returns outputs [B, T, ...] and the core's next state.
        policy: The distribution over actions.
        config: The `network` section.
        spec: The spec of the environment. Its observation is a single array, a frame [H, W, C] or a vector [D].
    """
    frame, num_frames, actions, action = spec.observation, config.frame_stack, spec.actions, spec.actions.struct

    def init(key: jax.Array) -> PyTree:
        observation, first = jnp.zeros((1, 1, *frame.shape), frame.dtype), jnp.ones((1, 1), bool)
        last_action = jnp.zeros((1, 1, *action.shape), action.dtype)
        rows = NetworkRows(observation=observation, first=first, last_action=last_action, last_reward=jnp.zeros((1, 1)))
        return module.init(key, *_inputs(config, actions, rows, initial_carry(1))[0])["params"]

    def initial_carry(batch_size: int) -> Carry:
        return Carry(
            frames=frame_stack.initial_carry(batch_size, frame, num_frames),
            action=jnp.zeros((batch_size, *action.shape), action.dtype) if config.last_action else (),
            core=initial_core_state(config, batch_size),
        )

    def evaluate(params: PyTree, rows: NetworkRows, carry: Carry) -> tuple[NetworkOutput, Carry]:
        inputs, frames = _inputs(config, actions, rows, carry)
        output, state = module.apply({"params": params}, *inputs)
        return output, dataclasses.replace(carry, frames=frames, core=state)

    def step(params: PyTree, timestep: Timestep, carry: Carry) -> tuple[NetworkOutput, Carry]:
        output, carry = evaluate(params, row_of(timestep, carry.action), carry)
        return jax.tree.map(lambda x: x[:, 0], output), carry

    def remember(carry: Carry, action: jax.Array) -> Carry:
        return dataclasses.replace(carry, action=action) if config.last_action else carry

    def unroll(params: PyTree, trajectory: Trajectory) -> tuple[NetworkOutput, Carry]:
        # Frames are transposed before they are stacked, while they have a fraction of the stacks' bytes.
        output, carry = evaluate(params, swap(rows_of(trajectory)), trajectory.carry)
        return swap(output), remember(carry, trajectory.action[-1])

    def rows(params: PyTree, trajectory: Trajectory, chosen: jax.Array) -> NetworkOutput:
        every, chosen, carry = swap(rows_of(trajectory)), jnp.swapaxes(chosen, 0, 1), trajectory.carry
        stacked = frame_stack.rows(every.observation, every.first, carry.frames, chosen)
        last, first = jax.tree.map(
            lambda x: frame_stack.take_stack_rows(x, chosen), (encode_last(config, actions, every), every.first)
        )
        return swap(module.apply({"params": params}, stacked, last, first, carry.core)[0])

    return Network(
        policy=policy,
        init=init,
        initial_carry=initial_carry,
        step=step,
        remember=remember,
        unroll=unroll,
        rows=rows if config.core == "none" else None,
    )


def _inputs(config: NetworkConfig, actions: ActionSpace, rows: NetworkRows, carry: Carry) -> tuple[tuple, PyTree]:
    """Returns the arguments of the module, and the frames of the next carry."""
    stacked, frames = frame_stack.unroll(rows.observation, rows.first, carry.frames, time_axis=1)
    return (stacked, encode_last(config, actions, rows), rows.first, carry.core), frames
