"""What compiled programs must and must not have on a pod, on eight CPU devices and compiled for a TPU v5e:2x4."""

import dataclasses
import functools
import importlib.util
import re

import jax
from jax import numpy as jnp
import pytest

from configs import impala_atari
from podrl.assembly import assemble, resolve
from podrl.experience.programs import make_unroller, trace_act
from podrl.learning.programs import make_learner, rollout_shapes
from podrl.learning.update_cost import collective_bytes, shard_bytes
from podrl.mesh import Topology
from podrl.performance.planning.slices import parse_slice, tpu_devices
from podrl.types import LearnerState

pytestmark = [
    pytest.mark.slow,
    # What was compiled for absent devices cannot be read back: it is compiled again.
    pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache"),
]

ENVS, LENGTH, PIXELS = 128, 4, 84
SCALARS = 1000  # Bytes of metrics, at the most.

PLACES = ("cpu", "v5e:2x4")
everywhere = pytest.mark.parametrize("place", PLACES)


@functools.cache
def find_devices(place):
    if place == "cpu":
        return tuple(jax.devices("cpu")[:8])
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    return tuple(tpu_devices(parse_slice(place)))


@dataclasses.dataclass(frozen=True)
class Compiled:
    topology: Topology
    state: LearnerState
    update: jax.stages.Compiled
    lowered_act: jax.stages.Lowered

    @functools.cached_property
    def act(self):
        return self.lowered_act.compile()

    @property
    def gradient_bytes(self):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.state.params))


@functools.cache
def compile_run(place, encoder="nature", model_devices=1, minibatches=2):
    """impala_atari with every device acting and learning, and a small batch: only compile time depends on that."""
    values = impala_atari.get_config()
    values.network.encoder, values.network.compute_dtype = encoder, "bfloat16"
    if encoder == "mlp":
        values.network.hidden_sizes = (1024, 1024)
    values.actors.num_envs, values.actors.unroll_length, values.actors.pools_per_thread = ENVS, LENGTH, 1
    values.agent.minibatches, values.topology.micro_batches = minibatches, 1
    values.topology.actor_devices_per_process = values.topology.learner_devices_per_process = 8
    values.topology.model_devices = model_devices
    found = assemble(resolve(values), find_devices(place))
    unroller = make_unroller(found.config, found.agent, found.spec, found.layout)
    learner = make_learner(found.config, found.agent, found.spec, found.topology.learner, found.rules)
    update = learner.trace(rollout_shapes(unroller, found.layout)).lower()
    act = trace_act(unroller, found.topology.local_actor_devices[0]).lower()
    return Compiled(found.topology, learner.state_shape, update.compile(), act)


def arrays(compiled):
    """(dtype, shape) of every array that the compiled program names."""
    found = re.findall(r"\b([a-z]+\d*)\[([\d,]+)\]", compiled.as_text())
    return {(dtype, tuple(int(n) for n in dims.split(","))) for dtype, dims in found}


class TestCollectives:
    @everywhere
    def test_only_gradients_and_metrics_are_reduced(self, place):
        run = compile_run(place)
        traffic = collective_bytes(run.update)
        assert traffic.keys() == {"all-reduce"}
        # Of two minibatches. A TPU reduces gradients of bfloat16 layers in that type, before they become float32.
        assert run.gradient_bytes <= traffic["all-reduce"] <= 2 * run.gradient_bytes + SCALARS

    @everywhere
    def test_each_minibatch_has_one_reduction(self, place):
        """So the count above sees each of them."""
        one, two = (compile_run(place, "mlp", minibatches=number) for number in (1, 2))
        reduced = collective_bytes(one.update)["all-reduce"]
        assert collective_bytes(two.update)["all-reduce"] == pytest.approx(2 * reduced, abs=SCALARS)

    @everywhere
    def test_acting_crosses_no_device(self, place):
        assert collective_bytes(compile_run(place).act) == {}


class TestBatch:
    @everywhere
    def test_no_device_sees_the_whole_batch(self, place):
        """Of environments a device has its eighth, of the update and of each minibatch."""
        frames = {shape for dtype, shape in arrays(compile_run(place).update) if dtype in ("u8", "bf16", "f32")}
        images = [shape for shape in frames if shape.count(PIXELS) == 2]
        assert images
        per_device = (LENGTH + 1 + 3) * ENVS // 8 * PIXELS**2 * 4  # Every frame of the batch, in a stack of four.
        assert max(functools.reduce(int.__mul__, shape) for shape in images) <= per_device

    def test_no_batch_of_images_is_float32_on_a_tpu(self):
        run = compile_run("v5e:2x4")
        for compiled in (run.update, run.act):
            dtypes = {dtype for dtype, shape in arrays(compiled) if shape.count(PIXELS) == 2}
            assert "u8" in dtypes
            assert "f32" not in dtypes


class TestDonation:
    @everywhere
    def test_the_new_state_takes_the_place_of_the_old(self, place):
        run = compile_run(place)
        state_bytes = sum(map(shard_bytes, jax.tree.leaves(run.state)))
        assert run.update.memory_analysis().alias_size_in_bytes >= state_bytes

    @everywhere
    def test_the_rollout_is_written_where_it_is(self, place):
        run = compile_run(place)
        _, state = run.act.out_info
        leaves = jax.tree.leaves(state.rollout.observation)
        frames = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        assert run.act.memory_analysis().alias_size_in_bytes >= frames


class TestSharding:
    @everywhere
    def test_split_weights_shrink(self, place):
        whole, split = (compile_run(place, "mlp", model_devices=number, minibatches=1) for number in (1, 4))
        before, after = (run.update.memory_analysis().argument_size_in_bytes for run in (whole, split))
        batch = whole.update.memory_analysis().argument_size_in_bytes - sum(
            map(shard_bytes, jax.tree.leaves(whole.state))
        )
        # The batch of a device grows as its share of environments does: 2 ways to split it instead of 8.
        assert after - 4 * batch < 0.35 * (before - batch)
        shards = [shard_bytes(leaf) for leaf in jax.tree.leaves(split.state.params)]
        assert sum(shards) < 0.3 * whole.gradient_bytes

    @everywhere
    def test_split_weights_are_never_put_together(self, place):
        split = compile_run(place, "mlp", model_devices=4, minibatches=1)
        kernels = {leaf.shape for leaf in jax.tree.leaves(split.state.params) if leaf.size >= 2**20}
        assert kernels
        assert not kernels & {shape for dtype, shape in arrays(split.update) if dtype in ("f32", "bf16")}


class TestTheSearch:
    """It finds what the tests above must not find."""

    def compile(self, place, function, **shape):
        device = find_devices(place)[0]
        sharding = jax.sharding.SingleDeviceSharding(device)
        frames = jax.ShapeDtypeStruct((32, PIXELS, PIXELS, 4), sharding=sharding, **shape)
        return jax.jit(function).lower(frames).compile()

    @everywhere
    def test_finds_images_in_float32(self, place):
        compiled = self.compile(place, lambda x: jnp.sort(jnp.sin(x.astype(jnp.float32)), axis=0), dtype=jnp.uint8)
        assert 2 in {shape.count(PIXELS) for dtype, shape in arrays(compiled) if dtype == "f32"}

    @everywhere
    def test_finds_programs_that_keep_nothing(self, place):
        compiled = self.compile(place, lambda x: x + 1, dtype=jnp.float32)
        assert compiled.memory_analysis().alias_size_in_bytes == 0
