"""A run with actor workers: which parameters make which rollout, and that only these cross the wire."""

import pytest

from tests.experience.remote.in_process import actor_workers, remote_config
from tests.short_runs import facts, make_config, run, shared_programs

THREADS = {"actors__threads_per_device": 2, "actors__pools_per_thread": 1, "checkpoint__every_updates": 4}


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


def run_with_workers(folder, monkeypatch, **settings):
    config = remote_config(folder, num_workers=0, remote__actor_workers=2, **THREADS, **settings)
    with actor_workers(folder, monkeypatch) as said:
        _, rows = run(config)
    assert not said
    return rows


@pytest.mark.parametrize(
    "settings",
    [{}, {"remote__publish": "drift", "remote__max_drift": 0.0}, {"actors__lag": 0}, {"actors__lag": 2}],
    ids=["every update", "no drift", "no lag", "more lag"],
)
def test_a_run_with_actor_workers_equals_the_run_without(tmp_path, monkeypatch, settings):
    alone = {key: value for key, value in settings.items() if not key.startswith("remote")}
    _, expected = run(make_config(**THREADS, **alone))
    found = run_with_workers(tmp_path, monkeypatch, env__source="tests.envs.delayed", **settings)
    assert len(expected) == 10
    assert facts(found) == facts(expected)
