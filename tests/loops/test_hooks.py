"""What is called between updates has its place in both loops, and in a run that resumes."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl import assembly
from podrl.runtime.interruption import Stop
from tests.short_runs import anakin_config, facts, make_config, run

pytestmark = pytest.mark.usefixtures("compiled_once")

MAKE = {"sebulba": make_config, "anakin": anakin_config}


def halve(calls):
    def between_updates(state, counters):
        calls.append(counters.learner_steps)
        return dataclasses.replace(state, params=jax.tree.map(lambda x: x / 2, state.params))

    return {"between_updates": between_updates, "between_every": 3}


@pytest.mark.parametrize("loop", MAKE)
def test_it_is_called_at_its_updates_and_changes_what_follows(loop):
    calls, seen = [], []
    config = MAKE[loop](log__every_updates=100)
    outcome, _ = run(config, hooks=halve(calls), before_update=seen.append)
    assert calls == [3, 6, 9]
    assert {4, 7, 10} <= set(seen)  # A call of several updates ends there.
    without, _ = run(config)
    leaves = [jax.tree.leaves(each.state.params) for each in (outcome, without)]
    assert not all(np.allclose(a, b) for a, b in zip(*leaves, strict=True))


@pytest.mark.parametrize("loop", MAKE)
def test_a_run_that_resumes_after_it_equals_one_that_does_not(loop):
    config, calls, saved = MAKE[loop](checkpoint__every_updates=6), [], []

    def save(snapshot):
        state = jax.tree.map(jnp.copy, snapshot.state)
        saved.append(dataclasses.replace(snapshot, state=state))

    whole, rows = run(config, hooks=halve(calls), save=save)
    resumed, later = run(config, hooks=halve(calls), start=saved[0])
    assert calls == [3, 6, 9, 9]
    jax.tree.map(np.testing.assert_array_equal, resumed.state.params, whole.state.params)
    assert facts(later)[-1]["fingerprint"] == facts(rows)[-1]["fingerprint"]


def test_a_process_of_several_waits_for_the_update_that_the_others_make():
    assert Stop(now=lambda: True).at_once()
    assert not Stop(now=lambda: True, alone=False).at_once()
    assert not Stop().at_once()


@pytest.mark.parametrize("loop", MAKE)
def test_an_assembly_can_run_and_be_compiled_more_than_once(loop):
    parts = assembly.assemble(MAKE[loop](), jax.devices()[:1])
    first, second = (assembly.run(parts) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.state.params, second.state.params)


def test_a_run_that_is_stopped_at_a_checkpoint_writes_no_row_after_it():
    """Its rows are in their files before a checkpoint is saved; one that came later could be lost."""
    events = []
    config = make_config(log__every_updates=3, checkpoint__every_updates=4)
    run(
        config,
        hooks={"write_row": lambda row: events.append(("row", row["learner_steps"]))},
        save=lambda snapshot: events.append(("save", snapshot.counters.learner_steps)),
        should_stop=lambda: ("save", 4) in events,
    )
    assert events[-1] == ("save", 4)
