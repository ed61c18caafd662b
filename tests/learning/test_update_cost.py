"""What crosses between devices, in bytes."""

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from podrl.learning.learner import Learner
from podrl.learning.update_cost import Collective, collective_bytes, describe_traffic, find_collectives
from tests.learning.test_learner import learner_mesh, shapes
from tests.short_runs import make_agent, make_config, random_trajectory


def test_bytes_by_kind():
    mesh = learner_mesh(8)
    x = jax.ShapeDtypeStruct((64, 64), jnp.uint8, sharding=NamedSharding(mesh, P("data")))
    gathered = jax.jit(lambda x: x * 2, out_shardings=NamedSharding(mesh, P())).lower(x).compile()
    assert collective_bytes(gathered) == {"all-gather": 64 * 64}
    kept = jax.jit(lambda x: x * 2, out_shardings=x.sharding).lower(x).compile()
    assert describe_traffic(collective_bytes(kept)) == "nothing"
    assert describe_traffic({"all-gather": 8192, "all-reduce": 4_383_048}) == "all-gather 8.00 KiB, all-reduce 4.18 MiB"


def test_collectives_know_which_axis_they_cross():
    """Four groups of two devices that share a layer."""
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))

    def gather(spec, to):
        x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, spec))
        program = jax.jit(lambda x: x * 2, out_shardings=NamedSharding(mesh, to)).lower(x).compile()
        (found,) = find_collectives(program, model_devices=2)
        return found

    assert gather(P("data"), P()) == Collective(kind="all-gather", axis="data", size_bytes=64 * 64 * 4)
    assert gather(P("data", "model"), P("data")) == Collective(kind="all-gather", axis="model", size_bytes=16 * 64 * 4)
    assert gather(P(("data", "model")), P()).axis == "all"


@pytest.mark.parametrize(
    ("groups", "axis"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "model"),
        ("replica_groups={{0,2,4,6},{1,3,5,7}}", "data"),
        ("replica_groups={}", "all"),
        ("replica_groups=[4,2]<=[8]", "model"),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", "data"),
        ("replica_groups=[1,8]<=[8]", "all"),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", "model"),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}", "data"),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", "data"),
        ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", "all"),
        ("replica_groups=of some other kind", "all"),
        ("source_target_pairs={{0,1},{1,0}}", "model"),
        ("source_target_pairs={{0,2},{2,0}}", "data"),
    ],
)
def test_groups_are_read_however_they_are_written(groups, axis):
    class Program:
        def as_text(self):
            return (
                f"  %a = (f32[2]{{0}}, /*index=1*/ bf16[4]{{0}}) all-reduce(%b), channel_id=1, {groups}, to_apply=%c\n"
            )

    assert find_collectives(Program(), model_devices=2) == [Collective(kind="all-reduce", axis=axis, size_bytes=16)]
    assert find_collectives(Program())[0].axis == "data"


def test_an_update_moves_its_gradients_and_nothing_that_grows_with_the_rollout():
    agent, spec = make_agent(make_config())
    short, long = (shapes(random_trajectory(agent, spec, length=length, num_envs=16)) for length in (3, 30))
    found = [collective_bytes(Learner(agent, learner_mesh(4)).compile([batch])) for batch in (short, long)]
    assert found[0] == found[1]
    params = jax.eval_shape(agent.init, jax.random.key(0)).params
    gradients = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    assert found[0].keys() == {"all-reduce"}
    assert gradients <= found[0]["all-reduce"] <= gradients + 200  # Metrics, a few scalars.
