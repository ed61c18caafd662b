"""What crosses between devices, in bytes."""

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from podrl.learner import Learner
from podrl.traffic import collective_bytes, describe_traffic
from tests.runs import make_agent, make_config, random_trajectory
from tests.test_learner import learner_mesh, shapes


def test_bytes_by_kind():
    mesh = learner_mesh(8)
    x = jax.ShapeDtypeStruct((64, 64), jnp.uint8, sharding=NamedSharding(mesh, P("data")))
    gathered = jax.jit(lambda x: x * 2, out_shardings=NamedSharding(mesh, P())).lower(x).compile()
    assert collective_bytes(gathered) == {"all-gather": 64 * 64}
    kept = jax.jit(lambda x: x * 2, out_shardings=x.sharding).lower(x).compile()
    assert describe_traffic(collective_bytes(kept)) == "nothing"
    assert describe_traffic({"all-gather": 8192, "all-reduce": 4_383_048}) == "all-gather 0.01 MiB, all-reduce 4.18 MiB"


def test_an_update_moves_its_gradients_and_nothing_that_grows_with_the_rollout():
    agent, spec = make_agent(make_config())
    short, long = (shapes(random_trajectory(agent, spec, length=length, num_envs=16)) for length in (3, 30))
    found = [collective_bytes(Learner(agent, learner_mesh(4)).compile([batch])) for batch in (short, long)]
    assert found[0] == found[1]
    params = jax.eval_shape(agent.init, jax.random.key(0)).params
    gradients = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    assert found[0].keys() == {"all-reduce"}
    assert gradients <= found[0]["all-reduce"] <= gradients + 200  # Metrics, a few scalars.
