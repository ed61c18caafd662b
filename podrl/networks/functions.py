"""A Flax module as pure functions of timesteps and trajectories, whatever its heads put out.

A single step is an unroll of one row, so that acting and learning run the same network.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Protocol

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp

from podrl.actions import ActionSpace
from podrl.config.config import NetworkConfig
from podrl.networks.core import initial_core_state
from podrl.networks.frame_stack import take_stack_rows
from podrl.networks.interface import AnyNetwork, Output
from podrl.networks.last_inputs import encode_last
from podrl.networks.parts import action_mask, initial_frames, seen, stack_chosen, stack_frames
from podrl.networks.rows import NetworkRows, opening_row, row_of, rows_of, swap
from podrl.types import EnvSpec, PyTree, Timestep, Trajectory


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


class RowsBefore(Protocol):
    """The rows before a trajectory, [R, B, ...], of which a carry is made."""

    observation: PyTree
    first: jax.Array
    action: jax.Array


def make_network(
    module: nn.Module,
    make_record: Callable[..., AnyNetwork],
    mask_output: Callable[[Output, jax.Array], Output],
    config: NetworkConfig,
    spec: EnvSpec,
) -> AnyNetwork:
    """Returns the functions of a module.

    Args:
        module: Takes stacked observations [B, T, ...], the encoded last action and reward [B, T, F] or None, `first`
            [B, T] and the core's state before row 0; returns outputs [B, T, ...] and the core's next state.
        make_record: Makes the record of the functions, such as `podrl.networks.interface.NetworkFunctions`.
        mask_output: (output of [..., L], mask [..., L] bool) -> the output, by which no forbidden option is taken.
        config: The `network` section.
        spec: The spec of the environment.
    """
    actions, initial_carry = spec.actions, functools.partial(_initial_carry, config, spec)

    def init(key: jax.Array) -> PyTree:
        return module.init(key, *opening_inputs(config, spec))["params"]

    def masked(output: Output, mask: jax.Array | None) -> Output:
        return output if mask is None else mask_output(output, mask)

    def evaluate(params: PyTree, rows: NetworkRows, carry: Carry) -> tuple[PyTree, Carry]:
        inputs, frames = _inputs(config, actions, rows, carry)
        output, state = module.apply({"params": params}, *inputs)
        return masked(output, action_mask(rows.observation)), dataclasses.replace(carry, frames=frames, core=state)

    def step(params: PyTree, timestep: Timestep, carry: Carry) -> tuple[PyTree, Carry]:
        output, carry = evaluate(params, row_of(timestep, carry.action), carry)
        return jax.tree.map(lambda x: x[:, 0], output), carry

    def remember(carry: Carry, action: jax.Array) -> Carry:
        return dataclasses.replace(carry, action=action) if config.last_action else carry

    def unroll(params: PyTree, trajectory: Trajectory) -> tuple[PyTree, Carry]:
        # Frames are transposed before they are stacked, while they have a fraction of the stacks' bytes.
        output, carry = evaluate(params, swap(rows_of(trajectory)), trajectory.carry)
        return swap(output), remember(carry, trajectory.action[-1]) if len(trajectory.reward) else carry

    def rows(params: PyTree, trajectory: Trajectory, chosen: jax.Array) -> PyTree:
        stacked, last, first, mask = chosen_inputs(config, actions, trajectory, chosen)
        output, _ = module.apply({"params": params}, stacked, last, first, trajectory.carry.core)
        return swap(masked(output, mask))

    return make_record(
        init=init,
        initial_carry=initial_carry,
        step=step,
        remember=remember,
        unroll=unroll,
        rows=rows if config.core == "none" else None,
        keep=lambda carry: Carry(core=carry.core),
        resume=lambda kept, before: remember(_restack(kept, before, initial_carry), before.action[-1]),
    )


def opening_inputs(config: NetworkConfig, spec: EnvSpec) -> tuple:
    """Returns what a module is given of one environment's first row, see `make_network`; to initialise it with."""
    return _inputs(config, spec.actions, opening_row(spec), _initial_carry(config, spec, 1))[0]


def chosen_inputs(
    config: NetworkConfig, actions: ActionSpace, trajectory: Trajectory, chosen: jax.Array
) -> tuple[PyTree, jax.Array | None, jax.Array, jax.Array | None]:
    """Returns what a network sees of chosen rows of a trajectory, without the memory of the others.

    Args:
        config: The `network` section.
        actions: The actions of one environment.
        trajectory: [T, B].
        chosen: [R, B] int32, from 0 to T.

    Returns:
        Of [B, R]: stacked observations, the encoded last action and reward, `first` and the action mask; None for what
        there is none of.
    """
    every, chosen = swap(rows_of(trajectory)), jnp.swapaxes(chosen, 0, 1)
    stacked = stack_chosen(seen(every.observation), every.first, trajectory.carry.frames, chosen)
    others = (encode_last(config, actions, every), every.first, action_mask(every.observation))
    last, first, mask = jax.tree.map(lambda x: take_stack_rows(x, chosen), others)
    return stacked, last, first, mask


def _restack(kept: Carry, before: RowsBefore, initial_carry: Callable[[int], Carry]) -> Carry:
    """Returns the carry behind some rows, with the frames that they and the resets among them leave in the stack."""
    first = jnp.swapaxes(before.first, 0, 1)
    _, frames = stack_frames(swap(seen(before.observation)), first, initial_carry(first.shape[0]).frames)
    return dataclasses.replace(kept, frames=frames)


def _initial_carry(config: NetworkConfig, spec: EnvSpec, batch_size: int) -> Carry:
    action = spec.actions.struct
    return Carry(
        frames=initial_frames(batch_size, seen(spec.observation), config.frame_stack),
        action=jnp.zeros((batch_size, *action.shape), action.dtype) if config.last_action else (),
        core=initial_core_state(config, batch_size),
    )


def _inputs(config: NetworkConfig, actions: ActionSpace, rows: NetworkRows, carry: Carry) -> tuple[tuple, PyTree]:
    """Returns the arguments of the module, and the frames of the next carry."""
    stacked, frames = stack_frames(seen(rows.observation), rows.first, carry.frames)
    return (stacked, encode_last(config, actions, rows), rows.first, carry.core), frames
