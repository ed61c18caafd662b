"""How updates are made of what agents learn and observe."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents.parts.interface import Batch, Fresh, Sample
from podrl.agents.parts.updating import make_update
from podrl.replay.interface import Draws, Replay
from podrl.types import LearnerState
from tests.agents.test_impala import chain
from tests.short_runs import make_agent, make_config


def make_state(**fields):
    step = jnp.zeros((), jnp.int32)
    return LearnerState(step=step, learner_step=step, params=jnp.zeros(()), opt_state=(), extra=(), key=step, **fields)


def make_counting_agent(seen):
    """Adds up rewards; what it observes adds a hundred."""
    agent, _ = make_agent(make_config())

    def learn(state, batch):
        seen.append((state.replay, batch))
        samples = [*([] if batch.rollouts is None else [batch.rollouts]), *batch.recorded.values()]
        gain = sum(jnp.sum(sample.trajectory.reward * sample.weight) for sample in samples)
        return dataclasses.replace(state, params=state.params + gain), {"loss/total": gain}, None

    def observe(state, rollouts):
        return dataclasses.replace(state, params=state.params + 100)

    return dataclasses.replace(agent, learn=learn, observe=observe)


def rewards(*values):
    return chain([0] * (len(values) + 1), [0] * len(values), values)


def test_rollouts_are_observed_and_then_learned_from_once():
    seen = []
    state, metrics = make_update(make_counting_agent(seen))(make_state(), Fresh(rollouts=rewards(1, 2)))
    assert (float(state.params), float(metrics["loss/total"])) == (103, 3)
    assert (int(state.step), int(state.learner_step)) == (1, 1)
    np.testing.assert_array_equal(seen[0][1].rollouts.weight, [1])


def test_recorded_data_are_learned_from_one_sample_after_the_other():
    samples = [Sample(trajectory=rewards(n), weight=jnp.ones(1)) for n in (1, 2, 6)]
    fresh = Fresh(recorded={"demonstrations": jax.tree.map(lambda *x: jnp.stack(x), *samples)})
    state, metrics = jax.jit(make_update(make_counting_agent([])))(make_state(), fresh)
    assert (float(state.params), float(metrics["loss/total"])) == (9, 3)
    assert (int(state.step), int(state.learner_step)) == (1, 3)


def test_recorded_data_beside_rollouts_are_in_one_batch():
    seen, sample = [], Sample(trajectory=rewards(5), weight=jnp.ones(1))
    fresh = Fresh(rollouts=rewards(1), recorded={"data": jax.tree.map(lambda x: jnp.asarray(x)[None], sample)})
    state, _ = make_update(make_counting_agent(seen))(make_state(), fresh)
    assert float(state.params) == 106


def test_learn_gets_no_replay_and_the_update_keeps_it():
    seen = []
    update = make_update(make_counting_agent(seen))
    state, _ = update(make_state(replay={"ring": jnp.arange(3)}), Fresh(rollouts=rewards(1)))
    assert seen[0][0] == ()
    np.testing.assert_array_equal(state.replay["ring"], np.arange(3))


def test_an_agent_that_learns_from_rollouts_says_so_where_there_are_none():
    agent, _ = make_agent(make_config())
    with pytest.raises(ValueError, match="Found a batch without rollouts"):
        agent.learn(agent.init(jax.random.key(0)), Batch())


class TestByPriority:
    """A replay of numbers: its rollouts' rewards are the places that are drawn."""

    def update(self, used, priorities=(5.0, jnp.nan, 2.0)):
        """One update of three draws of two sequences each, and what the replay was asked to write."""
        written = []

        def draw(ring):
            return ring, Draws(place=jnp.arange(1.0, 4.0), used=jnp.array(used), age=jnp.array([1.0, 2.0, 6.0]))

        def gather(ring, place):
            return Sample(trajectory=rewards(1), weight=jnp.full(1, place * ring["scale"]))

        def write(ring, draws, priority):
            written.append(priority)
            return {**ring, "scale": 100.0}

        replay = Replay(
            init=lambda key: (),
            insert=lambda ring, rollouts, fit: {**ring, "scale": 10.0},
            draw=draw,
            gather=gather,
            write=write,
            size=lambda ring: jnp.int32(1),
            share=0.5,
        )
        agent = make_counting_agent([])

        def learn(state, batch):
            learned, metrics, _ = agent.learn(state, batch)
            step = state.learner_step
            return learned, metrics, jnp.stack([jnp.array(priorities)[step], 1.0 * step])

        update = jax.jit(make_update(dataclasses.replace(agent, learn=learn), replay))
        state = make_state(replay={"scale": jnp.float32(0)})
        state, metrics = update(state, Fresh(rollouts=rewards(1)))
        assert len(written) == 1
        return state, metrics, written

    def test_all_is_drawn_after_the_insertion_and_priorities_are_written_once_after_the_last_step(self):
        state, metrics, written = self.update([True, True, True])
        assert float(state.params) == 100 + 10 * (1 + 2 + 3)
        assert (int(state.step), int(state.learner_step), float(state.replay["scale"])) == (1, 3, 100)
        assert written[0].shape == (3, 2)
        assert float(metrics["replay/ratio"]) == 1.5
        assert float(metrics["replay/age"]) == 3
        assert float(metrics["replay/priority_max"]) == 5
        np.testing.assert_allclose(metrics["replay/priority_mean"], (5 + 0 + 0 + 1 + 2 + 2) / 6)

    def test_draws_that_are_not_used_teach_nothing_and_metrics_stay_finite(self):
        state, metrics, _ = self.update([True, False, False])
        assert float(state.params) == 100 + 10
        assert int(state.learner_step) == 1
        state, metrics, _ = self.update([False, False, False])
        assert float(state.params) == 100
        assert (int(state.step), int(state.learner_step)) == (1, 0)
        assert all(np.isfinite(x) for x in metrics.values())
        assert float(metrics["replay/ratio"]) == float(metrics["loss/total"]) == 0
