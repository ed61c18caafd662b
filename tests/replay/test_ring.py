"""What a ring gives is what a plain buffer of all rows holds, on any number of devices."""

import jax
import numpy as np
import pytest

from tests.replay.rings import BATCHES, KINDS, PlainBuffer, Rollouts, envs_of, run

MESHES = [(1, 1), (2, 1), (4, 2), (8, 1)]
each_kind = pytest.mark.parametrize("kind", KINDS)


def stacked(rows, name):
    return jax.tree.map(lambda *x: np.stack(x), *(row[name] for row in rows))


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@each_kind
def test_sequences_priorities_and_probabilities_are_those_of_a_plain_buffer(kind):
    shape, made = KINDS[kind], run(kind, 4, 2)
    plain, rollouts, checked = PlainBuffer(shape), Rollouts(shape), 0
    for number, drawn in enumerate(made.drawn):
        plain.insert(rollouts.make(reopened=number == 5))
        envs = envs_of(KINDS[kind], made.order, drawn)
        starts = np.vectorize(plain.newest_start)(drawn.slot)
        for k, n in np.ndindex(BATCHES, shape.batch):
            env, start, share = int(envs[k, n]), int(starts[k, n]), drawn.probability[k, n]
            if not any(live[0] == env for live in plain.priority):
                assert share == 0
                continue
            assert (env, start) in plain.priority
            np.testing.assert_allclose(share, plain.share(env, start), rtol=1e-5)
            check_sequence(plain, env, start, jax.tree.map(lambda x, k=k: x[k], made.sequences[number]), n)
            checked += 1
        plain.write(envs.flat, starts.flat, drawn.probability.flat, made.new[number].flat)
        check_priorities(plain, made, number)
    assert checked > 6 * BATCHES * shape.batch


def check_sequence(plain, env, start, sequences, n):
    before, rows, carry = plain.sequence(env, start)
    trajectory = sequences.trajectory
    for name in ("observation", "first"):
        assert_same(jax.tree.map(lambda x: x[:, n], getattr(trajectory, name)), stacked(rows, name))
        assert_same(jax.tree.map(lambda x: x[:, n], getattr(sequences.before, name)), stacked(before, name))
    for name in ("action", "reward", "discount", "params_version"):
        assert_same(getattr(trajectory, name)[:, n], stacked(rows[:-1], name))
        assert_same(getattr(sequences.before, name)[:, n], stacked(before, name))
    assert trajectory.opening_reward[n] == before[-1]["reward"]
    if plain.shape.stride == plain.shape.unroll_length:
        assert_same(jax.tree.map(lambda x: x[n], trajectory.carry), carry)


def check_priorities(plain, made, number):
    shape, ring = plain.shape, made.rings[number]
    if shape.priority_exponent is None:
        assert ring.priority == ()
        return
    expected = np.zeros((shape.num_envs, shape.starts), np.float32)
    for (env, start), priority in plain.priority.items():
        expected[env, start // shape.stride % shape.starts] = priority
    np.testing.assert_allclose(ring.priority, expected[made.order], rtol=1e-6)
    np.testing.assert_array_equal(ring.priority == 0, expected[made.order] == 0)
    numbers = ring.env_index[:: shape.group_size] // shape.group_size
    np.testing.assert_allclose(ring.peak, plain.peak[numbers], rtol=1e-6)


@each_kind
@pytest.mark.parametrize(("data", "model"), MESHES[1:])
def test_any_number_of_devices_draws_the_same_in_its_own_order(kind, data, model):
    """Bit by bit, after several updates; and the numbers of sequences are those of their groups."""
    one, many = run(kind, 1), run(kind, data, model)
    for number in range(len(one.drawn)):
        records = []
        for made in (one, many):
            drawn, trajectory = made.drawn[number], made.sequences[number].trajectory
            fields = {
                "env": envs_of(KINDS[kind], made.order, drawn),
                "slot": drawn.slot,
                "probability": drawn.probability,
                "weight": made.weights[number],
                "number": drawn.number,
                "reward": trajectory.reward[:, -1],
            }
            assert_same(np.sort(drawn.number, axis=-1), np.tile(np.arange(KINDS[kind].batch), (BATCHES, 1)))
            assert_same(trajectory.env_index, drawn.number)
            order = np.argsort(drawn.number, axis=-1)
            records.append({name: np.take_along_axis(x, order, -1) for name, x in fields.items()})
        for name in records[0]:
            np.testing.assert_array_equal(records[0][name], records[1][name], err_msg=f"{name} of update {number}")
