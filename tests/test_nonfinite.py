"""Updates whose loss or gradient is not finite."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.nonfinite import first_bad_leaf, skip_nonfinite
from tests.runs import make_agent, make_config, random_trajectory, run, scripted_config

NAN_IN_UPDATE_6 = {"nan_at_step": 22}  # Of 4 steps in each of two pools.


def test_the_run_stops_and_says_where():
    saved = []
    run(scripted_config(total_env_steps=4 * 8 * 4), save=saved.append)
    config = scripted_config({"nan_at_step": 6}, checkpoint__every_updates=4)  # In the second update from a boundary.
    message = (
        r"Update 6 is not finite: loss/total is nan, grad/norm is nan. The first parameter that is not finite now is "
        r"encoder/Dense_0/bias. The last good checkpoint is of update 4\. A smaller agent\.learning_rate"
    )
    with pytest.raises(RuntimeError, match=message):
        run(config, start=saved.pop(), save=saved.append)
    assert saved == []


def test_without_a_checkpoint_that_is_said():
    with pytest.raises(RuntimeError, match=r"Update 6 is not finite: .* There is no checkpoint yet\."):
        run(scripted_config(NAN_IN_UPDATE_6))


def test_a_run_may_skip_such_an_update():
    outcome, rows = run(scripted_config(NAN_IN_UPDATE_6, on_nonfinite="skip"))
    assert outcome.finished
    assert [row["grad/skipped"] for row in rows] == [0] * 5 + [1] + [0] * 4
    fingerprints = [row["fingerprint/params"] for row in rows]
    assert fingerprints[5] == fingerprints[4]
    assert len(set(fingerprints)) == 9


def test_skipped_updates_are_said_and_counted_until_the_next_row(caplog):
    _, rows = run(scripted_config(NAN_IN_UPDATE_6, on_nonfinite="skip", log__every_updates=4))
    assert [(row["learner_steps"], row["grad/skipped"]) for row in rows] == [(1, 0), (4, 0), (8, 1), (10, 0)]
    assert "Update 6 was skipped: it is not finite." in caplog.text


def test_skipping_leaves_all_but_the_step_as_it_was():
    agent, spec = make_agent(make_config())
    state = agent.init(jax.random.key(0))
    good = random_trajectory(agent, spec, 4, 8)
    bad = jax.tree.map(lambda x: x, good)
    object.__setattr__(bad, "reward", bad.reward.at[0, 0].set(jnp.inf))
    update = jax.jit(skip_nonfinite(agent).update)
    kept, metrics = update(state, bad)
    assert (int(kept.step), float(metrics["grad/skipped"])) == (1, 1.0)
    jax.tree.map(np.testing.assert_array_equal, (kept.params, kept.opt_state), (state.params, state.opt_state))
    moved, metrics = update(state, good)
    assert float(metrics["grad/skipped"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, moved.params, jax.jit(agent.update)(state, good)[0].params)


def test_the_first_bad_leaf_is_named_by_its_path():
    params = {"a": {"kernel": jnp.ones(3)}, "b": jnp.array([1.0, jnp.inf])}
    assert first_bad_leaf(params) == "b"
    assert first_bad_leaf({"a": jnp.ones(2)}) is None
