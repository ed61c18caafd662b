import gc

import jax

from podrl.runs.checkpoint import Checkpointer
from podrl.types import Counters, Snapshot
from tests.short_runs import make_agent, make_config


def count_leaked():
    """Lists that hold one metric's value, as tensorstore makes them."""
    gc.collect()
    lists = [found for found in gc.get_objects() if type(found) is list and len(found) == 1]
    return sum(type(found[0]) is dict and "value" in found[0] for found in lists)


def test_a_save_leaves_no_metrics_of_tensorstores_behind(tmp_path):
    agent, _ = make_agent(make_config())
    state = agent.init(jax.random.key(0))
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        before = count_leaked()
        for step in (1, 2):
            checkpointer.save(Snapshot(state=state, counters=Counters(learner_steps=step), episodes={}))
        checkpointer.wait()
        assert count_leaked() - before < 5
