"""A run that resumes with several evaluations under way lets no other process or thread wait for more than one."""

from types import SimpleNamespace

import pytest

from podrl.evaluation.evaluator import OFF, Evaluator
from podrl.loops.evaluations import Evaluations
from podrl.loops.interface import Services
from podrl.types import Counters, Snapshot
from tests.short_runs import make_config

BEGIN = Counters(learner_steps=6, env_steps=6 * 32)


class Others:
    """A job whose first process has so many evaluations under way; it notes how long each exchange waits."""

    def __init__(self, first):
        self.first, self.waits = first, []

    def exchange(self, name, value, timeout_s):
        self.waits.append((name, timeout_s))
        return [value if self.first is None else self.first, "0"]


def evaluations(job, evaluator):
    config = make_config(evaluate__every_updates=2, evaluate__timeout_s=50.0, actors__timeout_s=7.0)
    start = Snapshot(state=None, counters=BEGIN, episodes={})
    return Evaluations(SimpleNamespace(config=config), start, Services(evaluator=evaluator), job)


@pytest.mark.parametrize("kept", [0, 2])
def test_what_an_earlier_start_left_is_made_before_the_run_goes_on(kept):
    written = []
    evaluator = Evaluator(
        every_updates=2,
        last_update=10,
        timeout_s=30.0,
        play=lambda params, update, **_: "episodes",
        write=lambda counters, episodes: written.append(counters.learner_steps),
        find_unfinished=lambda params: [(Counters(learner_steps=update), params) for update in (2, 4)[:kept]],
    )
    job = Others(None)
    with evaluator:
        evaluations(job, evaluator).begin(BEGIN, {})
        assert len(evaluator.unfinished()) == (0 if kept else 1)
    assert written == ([2, 4, 6] if kept else [])
    waits = [("evaluations under way", 57.0), ("evaluation", 7.0 + 3 * 50.0)]
    assert job.waits == (waits if kept else waits[:1])


def test_another_process_waits_as_long_as_the_first_may_take():
    job = Others("3")
    begun = evaluations(job, OFF)
    begun.begin(BEGIN, {})
    assert job.waits[1:] == [("evaluation", 7.0 + 3 * 50.0)]
    begun.add(Counters(learner_steps=8, env_steps=8 * 32), {}, saves=False, look=lambda: None)
    assert job.waits[2:] == [("evaluation", 57.0)]


def test_a_finished_run_makes_up_what_it_lacks():
    job = Others("4")
    assert evaluations(job, OFF).make_up(BEGIN, dict)
    assert job.waits[1:] == [("evaluation", 7.0 + 4 * 50.0), ("evaluation", 57.0)]
