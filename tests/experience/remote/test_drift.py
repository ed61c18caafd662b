"""How far two policies are apart on a reference batch, and what is granted to a worker."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.experience.episodes import Episode
from podrl.experience.remote.actor_programs import measure_drift
from podrl.experience.remote.granted import GrantedParameters
from podrl.experience.remote.messages import Kind, read_head
from podrl.experience.remote.rollouts import RolloutCodec, SentRollout
from podrl.experience.remote.trees import Pieces, TreeCodec, to_pieces
from podrl.types import Timestep
from tests.short_runs import all_resets, make_agent, make_config, random_trajectory

NUM_ENVS = 8
NORMALIZED = {"network__normalize_observations": True, "network__normalize_rewards": True}


def further(params):
    return jax.tree.map(lambda x: x * 1.5, params)


@pytest.fixture(
    scope="module",
    params=[("impala", {}), ("ppo", {**NORMALIZED, "network__last_reward": True}), ("vmpo", {}), ("impact", {})],
    ids=lambda param: param[0],
)
def case(request):
    name, settings = request.param
    agent, spec = make_agent(make_config(agent=name, **settings))
    params = agent.actor_params(agent.init(jax.random.key(0)))
    return agent, params, random_trajectory(agent, spec, 6, NUM_ENVS)


def test_the_policies_of_a_trajectory_are_those_that_act(case):
    agent, params, trajectory = case
    params = further(params)
    row = Timestep(
        observation=trajectory.observation[0],
        reward=trajectory.opening_reward,
        discount=jnp.ones(NUM_ENVS),
        first=trajectory.first[0],
    )
    _, behaviour, _ = agent.act(params, row, trajectory.carry, jax.random.split(jax.random.key(0), NUM_ENVS))
    np.testing.assert_allclose(agent.policies(params, trajectory)[0], behaviour["policy"], rtol=1e-4, atol=1e-5)


def test_drift_is_the_mean_divergence_of_the_transitions_of_the_environments_drawn(case):
    agent, params, trajectory = case
    newest = further(params)
    apart = np.asarray(agent.divergence(agent.policies(params, trajectory), agent.policies(newest, trajectory)))[:-1]
    mask = np.asarray(trajectory.is_transition)
    expected = np.sum(apart * mask) / mask.sum()
    assert expected > 1e-5

    def drift(newest, key=0, envs=NUM_ENVS, rollout=trajectory):
        drawn = jax.random.key(key)
        return float(measure_drift(agent, params, newest, [rollout, rollout], drawn, envs_per_rollout=envs))

    assert drift(newest) == pytest.approx(expected, rel=1e-4)
    assert drift(params) == pytest.approx(0, abs=1e-6)
    assert drift(newest, rollout=all_resets(trajectory)) == 0
    some = {drift(newest, key, envs=2) for key in (0, 1, 2)}
    assert len(some) == 3
    assert all(value > 0 for value in some)


def test_parameters_are_kept_as_long_as_a_rollout_needs_them():
    granted, device = GrantedParameters(), jax.devices()[0]

    def fetch(rollout):
        version, params = granted.fetch(device, range(rollout, rollout + 1), timeout_s=1.0, who="actor 0")
        return version, float(params["w"])

    granted.add(3, {"w": np.float32(3)})
    granted.grant(3, 3)
    granted.grant(4, 3)
    granted.add(4, {"w": np.float32(4)})
    granted.grant(5, 4)
    assert [fetch(3), fetch(4), fetch(5)] == [(3, 3), (3, 3), (4, 4)]
    granted.grant(6, 4)
    assert fetch(6) == (4, 4)
    with pytest.raises(ValueError, match=r"rollout 7 is to be made with parameters 3, which never came"):
        granted.grant(7, 3)
    with pytest.raises(TimeoutError, match=r"actor 0 waited 1 s for the learner to ask for rollout 9"):
        fetch(9)


def test_with_free_determinism_the_newest_that_came_are_taken():
    granted, device = GrantedParameters(takes_newest=True), jax.devices()[0]
    granted.add(0, {"w": np.float32(0)})
    granted.grant(0, 0)
    granted.add(2, {"w": np.float32(2)})
    version, _ = granted.fetch(device, range(1), timeout_s=1.0, who="actor 0")
    assert version == 2
    granted.grant(1, 0)


def test_a_rollout_is_restored_and_another_one_is_refused(case):
    trajectory = jax.tree.map(np.asarray, case[2])
    codec = RolloutCodec(trajectory, num_pools=2)
    episodes = (Episode(float("nan"), 3, {"a": 0.1}), Episode(-1 / 3, 7))
    sent = SentRollout(
        trajectories=(trajectory,) * 2, version=7, episodes=episodes, nonfinite="a text", spent_s={"env": 1.5}
    )
    content = codec.encode(sent)
    found = codec.decode(content)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.trajectories, sent.trajectories))
    assert repr(dataclasses.replace(found, trajectories=())) == repr(dataclasses.replace(sent, trajectories=()))
    for other in (content[:40], content[1:], b"", content + b"}", content.replace(b'"version"', b'"versiom"')):
        with pytest.raises(ValueError, match=r"expected|JSON|Extra data|form|no arrays|column"):
            codec.decode(other)


def test_a_tree_of_many_arrays_and_long_content_cross_in_pieces():
    tree = {f"layer {n}": np.full((3, n % 5), n, np.float32) for n in range(450)} | {"half": jnp.ones(4, jnp.bfloat16)}
    codec = TreeCodec(tree)
    found, rest = codec.decode(codec.encode(tree) + b"rest")
    assert rest == b"rest"
    assert jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), y), tree, found))
    content = bytes(range(256)) * 10_000
    messages = list(to_pieces(Kind.PARAMS, Kind.PART_OF_PARAMS, 0, 5, content))
    assert [read_head(message).kind.name for message in messages] == ["PART_OF_PARAMS"] * 2 + ["PARAMS"]

    def join(longest_bytes):
        pieces = Pieces(longest_bytes)
        heads = [read_head(message) for message in messages]
        return [pieces.add(head, m, is_last=head.kind == Kind.PARAMS) for head, m in zip(heads, messages, strict=True)]

    assert join(len(content)) == [None, None, content]
    with pytest.raises(ValueError, match="more than"):
        join(len(content) - 1)
