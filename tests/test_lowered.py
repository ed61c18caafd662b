"""Programs lowered for an accelerator, which need not be there, do no needless work on frames.

Sizes are those of `configs/impala_atari.py`, in bfloat16: 64 environments in two pools, T = 20, two minibatches.
"""

from collections import Counter
from collections.abc import Iterator
import dataclasses
import functools
import math
import re
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import impala_atari
from podrl.agents.parts.interface import Agent
from podrl.agents.parts.loading import load_agent
from podrl.config.config import Config
from podrl.config.config_dict import from_config_dict
from podrl.experience.layout import global_shape, make_layout
from podrl.experience.programs import ActingPrograms, compile_acting
from podrl.experience.unroll import Unroller
from podrl.learning.learner import Learner
from podrl.mesh import make_topology
from podrl.types import Trajectory
from tests.short_runs import make_agent

PLATFORMS = ("tpu", "cuda")
FEATURES = {"resnet": 256, "nature": 512}
PIXELS = (84, 84)
POOLS, POOL_ENVS, ROWS, MINIBATCHES = 2, 32, 21, 2
IMAGES = 672  # of a minibatch: 21 rows of 32 environments

TO_HOST = {"custom_call", "infeed", "outfeed", "send", "recv"}
MOVES = {"transpose", "concatenate", "gather", "scatter", "dynamic_slice", "dynamic_update_slice", "reverse", "sort"}

on_accelerators = pytest.mark.parametrize("platform", PLATFORMS)
with_encoders = pytest.mark.parametrize("encoder", FEATURES)


@dataclasses.dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Operation:
    name: str
    operands: tuple[Tensor, ...]
    results: tuple[Tensor, ...]


def lower(platform: str, function: Any, *shapes: Any) -> list[Operation]:
    """The operations of a function lowered for a platform, those of an inner function once per call of it."""
    module = jax.jit(function).trace(*shapes).lower(lowering_platforms=(platform,)).compiler_ir("stablehlo")
    functions = {operation.attributes["sym_name"].value: operation for operation in module.body.operations}

    def walk(parent: Any) -> Iterator[Operation]:
        for operation in (op.operation for region in parent.regions for block in region for op in block):
            name = operation.name.rpartition(".")[2]
            yield Operation(name, tensors(operation.operands), tensors(operation.results))
            yield from walk(functions[operation.attributes["callee"].value] if name == "call" else operation)

    return list(walk(functions["main"]))


def tensors(values: Any) -> tuple[Tensor, ...]:
    types = [re.fullmatch(r"tensor<((?:\d+x)*)(\w+)>", str(value.type)) for value in values]
    return tuple(Tensor(tuple(int(n) for n in t[1].split("x")[:-1]), t[2]) for t in types if t)


def float32_sizes(operations: list[Operation], agent: Agent) -> set[int]:
    """Element counts of all float32 tensors but those that may be a parameter, its gradient or a moment."""
    found = {tensor.size for op in operations for tensor in (*op.operands, *op.results) if tensor.dtype == "f32"}
    return found - param_sizes(agent)


def param_sizes(agent: Agent) -> set[int]:
    params = jax.eval_shape(agent.init, jax.random.key(0)).params
    return {leaf.size for leaf in jax.tree.leaves(params)}


def byte_conversions(operations: list[Operation]) -> list[Tensor]:
    """What bytes are converted to."""
    return [op.results[0] for op in operations if op.name == "convert" and op.operands[0].dtype == "ui8"]


def moves(operations: list[Operation], dtype: str) -> Counter[tuple[str, tuple[int, ...]]]:
    """How often values are moved to a new place in memory: (operation, shape of its result)."""
    moving = [(op.name, op.results[0]) for op in operations if op.name in MOVES]
    return Counter((name, result.shape) for name, result in moving if result.dtype == dtype)


def convolutions(operations: list[Operation]) -> list[tuple[int, ...]]:
    """Shapes of the results of all convolutions, those of gradients among them."""
    return [op.results[0].shape for op in operations if op.name == "convolution"]


def to_host(operations: list[Operation]) -> set[str]:
    return {op.name for op in operations} & TO_HOST


@dataclasses.dataclass(frozen=True)
class Run:
    config: Config
    agent: Agent
    unroller: Unroller
    learner: Learner
    rollouts: tuple[Trajectory, ...]

    @property
    def update_shapes(self) -> tuple[Any, ...]:
        return jax.eval_shape(self.agent.init, jax.random.key(0)), self.rollouts

    @property
    def act_shapes(self) -> tuple[Any, ...]:
        version = jax.ShapeDtypeStruct((), np.int32)
        return self.unroller.params_shape, version, self.unroller.state_shape, self.unroller.timestep_shape


@functools.cache
def make_run(encoder: str, compute_dtype: str = "bfloat16") -> Run:
    """What `podrl.learning.programs.compile_programs` builds, for one device."""
    values = impala_atari.get_config()
    values.network.encoder, values.network.compute_dtype = encoder, compute_dtype
    config = from_config_dict(values, load_agent("impala").AgentConfig)
    agent, spec = make_agent(config)
    topology = make_topology(config.topology, jax.devices()[:1])
    layout = make_layout(config, topology)
    unroller = Unroller(
        agent=agent, spec=spec, unroll_length=config.actors.unroll_length, num_envs=layout.envs_per_pool
    )
    rollouts = (global_shape(unroller.state_shape.rollout, 1),) * layout.pools_per_actor
    learner = Learner(agent, topology.learner)
    return Run(config=config, agent=agent, unroller=unroller, learner=learner, rollouts=rollouts)


@functools.cache
def lower_update(platform: str, encoder: str, compute_dtype: str = "bfloat16") -> list[Operation]:
    run = make_run(encoder, compute_dtype)
    return lower(platform, run.learner.update, *run.update_shapes)


@functools.cache
def lower_act(platform: str, encoder: str, compute_dtype: str = "bfloat16") -> list[Operation]:
    run = make_run(encoder, compute_dtype)
    return lower(platform, run.unroller.act, *run.act_shapes)


def test_the_sizes_of_this_file_are_those_of_the_config():
    rollouts = make_run("nature").rollouts
    assert [rollout.observation.shape for rollout in rollouts] == [(ROWS, POOL_ENVS, *PIXELS, 1)] * POOLS
    assert make_run("nature").config.agent.minibatches == MINIBATCHES
    assert IMAGES == ROWS * POOL_ENVS * POOLS // MINIBATCHES


class TestUpdate:
    @on_accelerators
    @with_encoders
    def test_float32_begins_at_the_features(self, platform, encoder):
        sizes = float32_sizes(lower_update(platform, encoder), make_run(encoder).agent)
        assert max(sizes) == IMAGES * FEATURES[encoder]

    @on_accelerators
    @with_encoders
    def test_images_are_bytes_until_the_first_layer_takes_bfloat16(self, platform, encoder):
        conversions = byte_conversions(lower_update(platform, encoder))
        assert conversions == [Tensor((IMAGES, *PIXELS, 4), "bf16")] * MINIBATCHES

    @on_accelerators
    @with_encoders
    def test_frames_are_moved_only_to_join_reorder_and_stack_them(self, platform, encoder):
        """The one transposition, which puts environments before time, is of single frames and not of their stacks."""
        frames = (IMAGES // ROWS, ROWS, *PIXELS, 1)
        expected = {
            ("concatenate", (ROWS, POOLS * POOL_ENVS, *PIXELS, 1)): 1,  # the pools' frames
            ("concatenate", (POOLS * POOL_ENVS, *PIXELS, 3)): 1,  # and those before them
            ("transpose", frames): MINIBATCHES,
            ("concatenate", frames): 3 * MINIBATCHES,  # each age of a stack is the one before it, a row later
            ("concatenate", (*frames[:-1], 4)): MINIBATCHES,  # the stacks
        }
        assert moves(lower_update(platform, encoder), "ui8") == expected

    @on_accelerators
    @with_encoders
    def test_activations_stay_where_they_are(self, platform, encoder):
        """Only a kernel's gradient is transposed."""
        found = moves(lower_update(platform, encoder), "bf16")
        assert {math.prod(shape) for _, shape in found} <= param_sizes(make_run(encoder).agent)

    @on_accelerators
    @with_encoders
    def test_images_get_no_gradient(self, platform, encoder):
        """A layer has three convolutions, its value and two gradients; the first layer has one gradient less."""
        found = convolutions(lower_update(platform, encoder))
        assert len(found) == MINIBATCHES * (3 * {"resnet": 15, "nature": 3}[encoder] - 1)
        assert (IMAGES, *PIXELS, 4) not in found

    @on_accelerators
    @with_encoders
    def test_nothing_waits_for_the_host(self, platform, encoder):
        assert not to_host(lower_update(platform, encoder))

    def test_it_is_one_program(self):
        run = make_run("nature")
        program = jax.make_jaxpr(run.learner.update)(*run.update_shapes)
        assert [equation.primitive.name for equation in program.eqns] == ["jit"]


class TestFingerprint:
    @on_accelerators
    def test_frames_are_hashed_four_bytes_a_word(self, platform):
        run = make_run("nature")
        operations = lower(platform, run.learner.fingerprint, *run.update_shapes)
        assert {tensor.size for tensor in byte_conversions(operations)} == {ROWS * POOL_ENVS}  # Only `first`.
        words = POOL_ENVS * ROWS * math.prod(PIXELS) // 4
        sizes = {tensor.size for op in operations for tensor in op.results if tensor.dtype == "ui32"}
        assert max(sizes - param_sizes(run.agent)) == words


class TestAct:
    @on_accelerators
    @with_encoders
    def test_float32_begins_at_the_features(self, platform, encoder):
        run = make_run(encoder)
        rollout_sizes = {leaf.size for leaf in jax.tree.leaves(run.rollouts[0])}
        sizes = float32_sizes(lower_act(platform, encoder), run.agent) - rollout_sizes
        assert max(sizes) == POOL_ENVS * FEATURES[encoder]

    @on_accelerators
    @with_encoders
    def test_images_are_bytes_until_the_first_layer_takes_bfloat16(self, platform, encoder):
        assert byte_conversions(lower_act(platform, encoder)) == [Tensor((POOL_ENVS, *PIXELS, 4), "bf16")]

    @on_accelerators
    @with_encoders
    def test_one_row_of_the_rollout_is_written_and_the_rest_left_alone(self, platform, encoder):
        rollout = (ROWS, POOL_ENVS, *PIXELS, 1)
        operations = [op for op in lower_act(platform, encoder) if Tensor(rollout, "ui8") in op.results]
        assert [op.name for op in operations if op.name != "call"] == ["dynamic_update_slice"]
        assert "scatter" not in {op.name for op in lower_act(platform, encoder)}

    @on_accelerators
    @with_encoders
    def test_frames_are_moved_only_to_store_and_stack_them(self, platform, encoder):
        frame = (POOL_ENVS, 1, *PIXELS, 1)  # A step is an unroll of one row.
        expected = {
            ("dynamic_update_slice", (ROWS, POOL_ENVS, *PIXELS, 1)): 1,
            ("concatenate", frame): 3,
            ("concatenate", (*frame[:-1], 4)): 1,
        }
        assert moves(lower_act(platform, encoder), "ui8") == expected

    @on_accelerators
    @with_encoders
    def test_nothing_waits_for_the_host(self, platform, encoder):
        assert not to_host(lower_act(platform, encoder))


@pytest.fixture(scope="module")
def long_unroller() -> Unroller:
    """Of so many steps that a copy of the rollout would outweigh everything else."""
    run = make_run("mlp")
    return dataclasses.replace(run.unroller, unroll_length=200)


@pytest.fixture(scope="module")
def programs(long_unroller: Unroller) -> ActingPrograms:
    return compile_acting(long_unroller, seed=1, device=jax.devices()[0])


class TestActingPrograms:
    """As a run compiles them, on the device at hand."""

    def test_one_new_frame_of_each_environment_comes_from_the_host(self, programs):
        (params, version, state, timestep), _ = programs.act.args_info
        assert timestep.observation.shape == (POOL_ENVS, *PIXELS, 1)
        size_bytes = sum(arg.dtype.itemsize * math.prod(arg.shape) for arg in jax.tree.leaves(timestep))
        assert size_bytes == POOL_ENVS * (math.prod(PIXELS) + 4 + 4 + 1)  # and reward, discount, `first`
        assert version.shape == ()
        assert all(arg.donated for arg in jax.tree.leaves(state))
        assert not any(arg.donated for arg in jax.tree.leaves((params, version, timestep)))

    def test_all_but_the_actions_stays_where_it_was(self, programs):
        actions, state = programs.act.out_info
        assert (actions.shape, actions.dtype) == ((POOL_ENVS,), jnp.int32)
        assert updated_in_place(programs.act) == set(range(1, 1 + len(jax.tree.leaves(state))))

    def test_a_finished_rollout_is_the_buffer_that_was_written(self, programs):
        rollout, _ = programs.finish.out_info
        assert updated_in_place(programs.finish) >= set(range(len(jax.tree.leaves(rollout))))

    @pytest.mark.parametrize("name", ["act", "finish"])
    def test_no_rollout_is_copied(self, programs, long_unroller, name):
        frames = long_unroller.state_shape.rollout.observation
        assert getattr(programs, name).memory_analysis().temp_size_in_bytes < frames.size / 2


def updated_in_place(compiled: jax.stages.Compiled) -> set[int]:
    """The outputs of a compiled program that take the place of an input."""
    header = compiled.as_text().splitlines()[0]
    return {int(output) for output in re.findall(r"\{(\d*)\}: \(\d+, \{\}, (?:may|must)-alias\)", header)}


class TestTheSearch:
    """It finds what the tests above must not find."""

    FRAMES = jax.ShapeDtypeStruct((3, 2, *PIXELS, 1), jnp.uint8)

    @on_accelerators
    def test_programs_are_those_of_the_platform(self, platform, monkeypatch):
        """On a CPU podrl rewrites float32 convolutions."""
        monkeypatch.delenv("XLA_FLAGS")
        layers = [(POOL_ENVS, 20, 20, 32), (POOL_ENVS, 9, 9, 64), (POOL_ENVS, 7, 7, 64)]
        assert convolutions(lower_act(platform, "nature", "float32")) == layers
        assert convolutions(lower_act("cpu", "nature", "float32")) == []
        assert convolutions(lower_act(platform, "resnet", "float32"))[0] == (POOL_ENVS, *PIXELS, 16)
        in_pairs, widened = (POOL_ENVS, 84, 42, 32), (POOL_ENVS, 42, 42, 17)
        assert convolutions(lower_act("cpu", "resnet", "float32"))[:2] == [in_pairs, widened]

    @on_accelerators
    def test_finds_images_in_float32(self, platform):
        sizes = float32_sizes(lower_update(platform, "nature", "float32"), make_run("nature").agent)
        assert IMAGES * 84 * 84 * 4 in sizes

        def merged(frames):
            return frames.reshape(-1).astype(jnp.float32)

        operations = lower(platform, merged, self.FRAMES)
        assert byte_conversions(operations) == [Tensor((self.FRAMES.size,), "f32")]
        assert self.FRAMES.size in float32_sizes(operations, make_run("nature").agent)

    @on_accelerators
    def test_finds_every_move(self, platform):
        def wasteful(frames, row):
            swapped = jnp.swapaxes(frames, 0, 1)
            twice = jnp.concatenate([frames, frames])
            one = jax.lax.dynamic_index_in_dim(frames, row)
            written = frames.at[row].set(0)
            chosen = frames[jnp.array([0, 2]) + row]
            return swapped, twice, one, written, chosen, jnp.flip(frames, 0), jnp.sort(frames, 0)

        moved = moves(lower(platform, wasteful, self.FRAMES, jax.ShapeDtypeStruct((), jnp.int32)), "ui8")
        assert {name for name, _ in moved} == MOVES - {"dynamic_update_slice"}
        assert moved["transpose", (2, 3, *PIXELS, 1)] == 1

    @on_accelerators
    def test_counts_inner_functions_once_per_call_and_looks_into_branches_and_loops(self, platform):
        swap = jax.jit(lambda frames: jnp.swapaxes(frames, 0, 1))

        def nested(frames):
            twice = swap(swap(frames))
            branched = jax.lax.cond(frames[0, 0, 0, 0, 0] > 0, lambda x: x, lambda x: x[:, :, ::-1], twice)
            return jax.lax.fori_loop(0, 3, lambda _, x: jnp.swapaxes(x, 2, 3), branched)

        moved = moves(lower(platform, nested, self.FRAMES), "ui8")
        assert moved == {
            ("transpose", (2, 3, *PIXELS, 1)): 1,
            ("transpose", (3, 2, *PIXELS, 1)): 2,
            ("reverse", (3, 2, *PIXELS, 1)): 1,
        }

    def test_finds_calls_of_the_host(self):
        """JAX lowers these for the platform at hand only; for an absent one they are an error."""

        def calls(x):
            return jax.pure_callback(lambda x: x, x, x)

        assert to_host(lower("cpu", calls, jax.ShapeDtypeStruct((2,), jnp.float32)))

    def test_finds_programs_that_copy_what_they_could_keep(self):
        def function(x, y):
            return x + 1, y.at[0].set(0.0)

        shapes = jax.ShapeDtypeStruct((4, 5), jnp.float32), jax.ShapeDtypeStruct((6, 7), jnp.float32)
        assert updated_in_place(jax.jit(function).lower(*shapes).compile()) == set()
        assert updated_in_place(jax.jit(function, donate_argnums=1).lower(*shapes).compile()) == {1}
