import dataclasses
import functools
import math
import re

import jax
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from podrl.config.config import TopologyConfig
from podrl.learning.intake import join_environments, lag_metrics
from podrl.learning.learner import Learner
from podrl.mesh import make_topology, trajectory_sharding
from podrl.ops.fingerprint import fingerprint
from podrl.types import Trajectory
from tests.short_runs import make_agent, make_agent_update, make_config, random_trajectory

MEMORY = {
    "network__core": "lstm",
    "network__core_size": 16,
    "network__last_action": True,
    "network__last_reward": True,
}
KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "collective-broadcast", "reduce-scatter")
COLLECTIVE = re.compile(rf"= (.*) ((?:ragged-)?(?:{'|'.join(KINDS)}))(?:-start)?\(")


def learner_mesh(num_devices, model_devices=1):
    config = TopologyConfig(
        actor_devices_per_process=1, learner_devices_per_process=num_devices, model_devices=model_devices
    )
    return make_topology(config, jax.devices()[:num_devices]).learner


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def place(mesh, trajectory):
    return jax.device_put(trajectory, trajectory_sharding(mesh, trajectory))


def train(config, num_devices, num_updates, num_pools=1, model_devices=1, rules=(), num_envs=16):
    """Parameters after updates on the same global batches, split over devices; pools share the batch out."""
    agent, spec = make_agent(config)
    mesh = learner_mesh(num_devices, model_devices)
    learner = Learner(agent, mesh, rules)
    state = learner.init(seed=3)
    for update in range(num_updates):
        batch = random_trajectory(agent, spec, length=5, num_envs=num_envs, seed=update)
        parts = [take_environments(batch, part, num_pools) for part in range(num_pools)]
        if update == 0:
            learner.compile([shapes(part) for part in parts])
        state, metrics = learner.update(state, [place(mesh, part) for part in parts])
    return jax.device_get(state.params), jax.device_get(metrics), learner, state


def take_environments(trajectory: Trajectory, part: int, num_parts: int) -> Trajectory:
    size = trajectory.reward.shape[1] // num_parts
    span = slice(part * size, (part + 1) * size)
    return trajectory.map(lambda x: x[:, span], lambda x: x[span])


def assert_params_close(a, b, rtol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        scale = np.abs(x).max()
        np.testing.assert_allclose(x / scale, y / scale, atol=rtol)


@pytest.fixture(scope="module", autouse=True)
def what_tests_share_ends_with_the_module():
    yield
    for cached in (train_in_minibatches, train_ppo):
        cached.cache_clear()


@pytest.fixture(scope="module")
def reference():
    return train(make_config(), num_devices=1, num_updates=20)


@pytest.mark.parametrize("num_devices", [2, 4, 8])
def test_the_same_global_batch_gives_the_same_parameters_on_any_number_of_devices(reference, num_devices):
    params, metrics, *_ = train(make_config(), num_devices=num_devices, num_updates=20)
    assert_params_close(params, reference[0], rtol=1e-5)
    for name, value in reference[1].items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_recurrent_networks_learn_the_same_on_eight_devices():
    results = [train(make_config(**MEMORY), num_devices=num_devices, num_updates=10) for num_devices in (1, 8)]
    assert_params_close(*(params for params, *_ in results), rtol=1e-5)


def test_updates_move_the_parameters(reference):
    before, *_ = train(make_config(), num_devices=1, num_updates=1)
    with pytest.raises(AssertionError):
        assert_params_close(before, reference[0], rtol=1e-2)


def test_how_a_batch_is_dealt_to_pools_and_micro_batches_does_not_matter(reference):
    config = make_config(topology__micro_batches=2)
    params, *_ = train(config, num_devices=4, num_updates=20, num_pools=2)
    assert_params_close(params, reference[0], rtol=1e-5)


def test_replay_is_split_over_the_devices_and_all_else_whole():
    agent, _ = make_agent(make_config())

    def init(key):
        return dataclasses.replace(agent.init(key), replay={"rows": jnp.zeros((8, 3)), "count": jnp.zeros(())})

    mesh = learner_mesh(4)
    state = Learner(dataclasses.replace(agent, init=init), mesh).init(seed=1)
    assert {shard.data.shape for shard in state.replay["rows"].addressable_shards} == {(2, 3)}
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves((state.params, state.replay["count"])))


@pytest.mark.parametrize("agent", ["impala", "ppo"])
def test_micro_batches_are_as_many_copies_of_the_network_as_the_config_says(agent):
    def products(**overrides):
        config = make_config(agent=agent, agent__minibatches=1, **overrides)
        built, spec = make_agent(config)
        trajectory = random_trajectory(built, spec, 4, 8)
        lowered = jax.jit(make_agent_update(built)).lower(jax.eval_shape(built.init, jax.random.key(0)), trajectory)
        return lowered.compile().as_text().count(" dot(")

    loop = products(topology__micro_batches=8, topology__micro_batch_loop="rolled")
    copies = products(topology__micro_batches=8, topology__micro_batch_loop="unrolled")
    assert loop < copies / 4


@pytest.mark.parametrize(("num_devices", "num_pools"), [(1, 2), (8, 1), (8, 2)])
def test_minibatches_hold_the_same_environments_on_any_layout(num_devices, num_pools):
    params, *_ = train_in_minibatches(num_devices, num_pools)
    assert_params_close(params, train_in_minibatches(1, 1)[0], rtol=1e-5)


@functools.cache
def train_in_minibatches(num_devices, num_pools):
    config = make_config(agent__minibatches=2, actors__num_envs=32)
    return train(config, num_devices=num_devices, num_updates=20, num_pools=num_pools, num_envs=32)


SHUFFLES = {
    "environments": {"agent__shuffle": "environments", "agent__minibatches": 2, "actors__num_envs": 32},
    "time": {"agent__shuffle": "time", "agent__minibatches": 5, "actors__num_envs": 32},
    "lstm": {"agent__minibatches": 2, "actors__num_envs": 32, **MEMORY},
}


@functools.cache
def train_ppo(shuffle, num_devices, num_pools):
    """Few updates: each takes ten optimizer steps or more."""
    config = make_config(agent="ppo", agent__epochs=3, agent__optimizer__epsilon=1e-3, **SHUFFLES[shuffle])
    return train(config, num_devices=num_devices, num_updates=4, num_pools=num_pools, num_envs=32)


@pytest.mark.parametrize(
    ("shuffle", "num_devices", "num_pools"),
    [
        ("environments", 8, 2),
        ("time", 8, 2),
        ("lstm", 8, 2),
        pytest.param("time", 4, 2, marks=pytest.mark.slow),
        *(pytest.param(shuffle, 2, 1, marks=pytest.mark.long) for shuffle in SHUFFLES),
        *(pytest.param(shuffle, 4, 2, marks=pytest.mark.long) for shuffle in ("environments", "lstm")),
    ],
)
def test_shuffled_minibatches_are_the_same_on_any_layout(shuffle, num_devices, num_pools):
    reference, reference_metrics, *_ = train_ppo(shuffle, 1, 1)
    params, metrics, *_ = train_ppo(shuffle, num_devices, num_pools)
    assert_params_close(params, reference, rtol=1e-5)
    for name, value in reference_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_ways_to_shuffle_differ():
    with pytest.raises(AssertionError):
        assert_params_close(train_ppo("time", 1, 1)[0], train_ppo("environments", 1, 1)[0], rtol=1e-3)


def test_parameters_split_over_the_model_axis_learn_the_same(reference):
    rules = [(r"encoder.*kernel|MLP.*kernel", P(None, "model"))]
    params, _, _, state = train(make_config(), num_devices=8, num_updates=20, model_devices=4, rules=rules)
    assert_params_close(params, reference[0], rtol=1e-5)
    split = [x for x in jax.tree.leaves(state.params) if x.sharding.spec == P(None, "model")]
    assert split
    assert all(x.addressable_shards[0].data.shape[1] * 4 == x.shape[1] for x in split)


def find_collectives(compiled):
    """(kind, element counts of its results) of every collective in a compiled program."""

    def sizes(results):
        return [math.prod(int(n) for n in dims.split(",") if n) for dims in re.findall(r"\w\[([\d,]*)\]", results)]

    text = re.sub(r"/\*.*?\*/", "", compiled if isinstance(compiled, str) else compiled.as_text())
    return [(kind, sizes(results)) for results, kind in COLLECTIVE.findall(text)]


def find_collectives_in_loops(compiled):
    """The same of those that run once for each turn of a loop."""
    text = compiled.as_text()
    computations = dict(re.findall(r"^%?([\w.\-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S))
    pending, inside = set(re.findall(r"body=%?([\w.\-]+)", text)), set()
    assert pending <= set(computations)
    while pending:
        inside |= pending
        called = re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", "".join(computations[name] for name in pending))
        pending = set(called) - inside
    return find_collectives("".join(computations[name] for name in sorted(inside)))


def test_the_search_for_collectives_finds_those_that_must_not_be():
    mesh = learner_mesh(8)
    rows, columns = (jax.sharding.NamedSharding(mesh, spec) for spec in (P("data"), P(None, "data")))
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=rows)
    moved = jax.jit(lambda x: x * 2, out_shardings=columns).lower(x).compile()
    assert {kind for kind, _ in find_collectives(moved)} == {"all-to-all"}
    gathered = jax.jit(lambda x: x * 2, out_shardings=jax.sharding.NamedSharding(mesh, P())).lower(x).compile()
    assert ("all-gather", [64 * 64]) in find_collectives(gathered)


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("mlp", {"topology__micro_batches": 2}),
        ("nature", {}),
        ("resnet", {}),
        (
            "mlp",
            {"agent": "ppo", "agent__recompute_values": True, "agent__epochs": 1, "topology__step_loop": "unrolled"}
            | MEMORY,
        ),
        ("mlp", {"agent": "ppo", "agent__shuffle": "time", "network__frame_stack": 3}),
        pytest.param("nature", {"agent": "ppo", "agent__shuffle": "time"}, marks=pytest.mark.slow),
        ("mlp", MEMORY),
    ],
)
def test_the_update_on_eight_devices_only_reduces_gradients_and_metrics(encoder, options):
    """And that of an LSTM does so once, not for each time step; PPO's loop of optimizer steps does for each of them."""
    config = make_config(agent__minibatches=2, **options)
    if encoder != "mlp":
        images = {"network__encoder": encoder, "network__frame_stack": 4, "agent__minibatches": 2}
        config = make_config("Breakout-v5", **images, **options)
    agent, spec = make_agent(config)
    mesh = learner_mesh(8)
    batch = shapes(random_trajectory(agent, spec, length=4, num_envs=16))
    compiled = Learner(agent, mesh).compile([batch, batch])
    found = find_collectives(compiled)
    assert {kind for kind, _ in found} == {"all-reduce"}
    sizes = [size for _, sizes in found for size in sizes]
    largest = max(x.size for x in jax.tree.leaves(jax.eval_shape(agent.init, jax.random.key(0)).params))
    assert max(sizes) <= largest, "something larger than a parameter is reduced"
    assert " while(" in compiled.as_text()  # V-trace and GAE are loops.
    steps_are_a_loop = config.agent.update_shape.loops_steps and config.topology.step_loop != "unrolled"
    assert bool(find_collectives_in_loops(compiled)) == steps_are_a_loop


def test_vmpos_better_half_is_the_batchs_and_gathers_nothing_but_advantages():
    """Beside sums of gradients and metrics: one number per transition reaches every device."""
    config = make_config(agent="vmpo", topology__micro_batches=2)
    agent, spec = make_agent(config)
    mesh = learner_mesh(8)
    batch = shapes(random_trajectory(agent, spec, length=4, num_envs=16))
    compiled = Learner(agent, mesh).compile([batch, batch])
    found = find_collectives(compiled)
    assert {kind for kind, _ in found} <= {"all-reduce", "all-gather"}
    gathered = [sizes for kind, sizes in found if kind == "all-gather"]
    assert gathered
    assert max(size for sizes in gathered for size in sizes) <= 2 * 4 * 16
    largest = max(x.size for x in jax.tree.leaves(jax.eval_shape(agent.init, jax.random.key(0)).params))
    assert max(size for kind, sizes in found for size in sizes if kind == "all-reduce") <= largest
    assert not find_collectives_in_loops(compiled)


STEPS = {"agent__epochs": 2, "agent__minibatches": 5, "agent__shuffle": "time"}
GAUSSIAN = {"env_id": "InvertedDoublePendulum-v5", **STEPS}


@pytest.mark.parametrize(
    "options", [STEPS, GAUSSIAN, pytest.param(MEMORY, marks=pytest.mark.slow)], ids=["steps", "gaussian", "lstm"]
)
def test_vmpo_learns_the_same_on_eight_devices_and_in_parts(options):
    def learn(num_devices, num_pools=1, **parts):
        rates = {"agent__popart__rate": 0.1, "agent__optimizer__epsilon": 1e-3, "agent__dual_optimizer__epsilon": 1e-3}
        config = make_config(agent="vmpo", agent__target_period=3, **rates, **options, **parts)
        params, metrics, _, state = train(config, num_devices=num_devices, num_updates=7, num_pools=num_pools)
        return params, metrics, jax.device_get((state.extra["target"], state.extra["duals"], state.extra["popart"]))

    params, metrics, extra = learn(1)
    other_params, other_metrics, other_extra = learn(8, num_pools=2, topology__micro_batches=2)
    assert_params_close(other_params, params, rtol=1e-5)
    assert_params_close(other_extra, extra, rtol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(other_metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_joining_pools_keeps_every_environment_once():
    config = make_config()
    agent, spec = make_agent(config)
    mesh = learner_mesh(4)
    batch = random_trajectory(agent, spec, length=3, num_envs=16)
    parts = tuple(place(mesh, take_environments(batch, part, 2)) for part in range(2))
    joined = jax.jit(lambda *rollouts: join_environments(mesh, rollouts))(*parts)
    assert joined.reward.shape == batch.reward.shape
    columns = {tuple(column) for column in np.asarray(joined.reward).T}
    assert columns == {tuple(column) for column in np.asarray(batch.reward).T}


def test_state_is_donated_and_actor_params_survive_it():
    _, _, learner, state = train(make_config(), num_devices=2, num_updates=1)
    agent, spec = make_agent(make_config())
    published = learner.actor_params(state)
    values = jax.device_get(published)
    batch = place(learner_mesh(2), random_trajectory(agent, spec, length=5, num_envs=16))
    learner.update(state, [batch])
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(published), values)


@pytest.mark.parametrize("model_devices", [1, 2])
def test_the_fingerprint_on_eight_devices_is_that_of_one_and_only_sums_cross(model_devices):
    """Frames of bytes, bools, ints and floats; with `model_devices`, parameters that are split as well."""
    config = make_config("Breakout-v5", network__encoder="nature", network__frame_stack=4)
    agent, spec = make_agent(config)
    parts = [random_trajectory(agent, spec, length=3, num_envs=16, seed=seed) for seed in (0, 1)]
    values = {}
    for mesh in (learner_mesh(1), learner_mesh(8, model_devices)):
        learner = Learner(agent, mesh, [(r"Dense_0/kernel$", P(None, "model"))])
        state, placed = learner.init(seed=3), [place(mesh, part) for part in parts]
        values[mesh.size] = np.asarray(learner.fingerprint(state, placed))
    assert values[1].shape == (2, 2)
    np.testing.assert_array_equal(values[1], values[8])
    found = find_collectives(jax.jit(fingerprint).lower((state.params, placed)).compile())
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert max(size for _, sizes in found for size in sizes) <= 2


def test_shares_of_the_lag_sum_to_one_and_have_its_mean():
    lag = jnp.asarray([[0, 1, 3], [1, 1, 3]], jnp.int32)
    metrics = jax.device_get(lag_metrics(lag, max_lag=3))
    shares = [metrics[f"lag/{n}"] for n in range(4)]
    np.testing.assert_allclose(shares, [1 / 6, 3 / 6, 0, 2 / 6], rtol=1e-6)
    assert metrics["lag/mean"] == pytest.approx(np.dot(shares, range(4)))
    assert metrics["lag/max"] == 3
    assert "lag/4" not in metrics


def test_shares_of_long_lags_are_left_out():
    metrics = jax.device_get(lag_metrics(jnp.asarray([[0, 16, 900, 1024]], jnp.int32), max_lag=1024))
    assert set(metrics) == {"lag/mean", "lag/max", *(f"lag/{n}" for n in range(17))}
    assert (metrics["lag/0"], metrics["lag/16"], metrics["lag/mean"], metrics["lag/max"]) == (0.25, 0.25, 485, 1024)
