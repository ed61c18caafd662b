"""A run whose environments step in environment workers is bit for bit the run with environments of its own."""

import pytest

from tests.experience.remote.in_process import env_workers, remote_config
from tests.short_runs import facts, make_config, run, shared_programs


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


@pytest.mark.parametrize(
    "settings",
    [
        {
            "env__source": "tests.envs.delayed",
            "checkpoint__every_updates": 3,
            "actors__threads_per_device": 2,
            "actors__pools_per_thread": 1,
        },
        pytest.param(
            {
                "env__source": "gymnasium",
                "env__id": "tests.envs.informed:Informed",
                "env__options": {"lengths": (2, 3)},
                "env__workers": 2,
                "log__info_keys": ("*", "max:parts/*"),
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["delays and boundaries", "info and worker processes"],
)
def test_a_run_with_workers_equals_the_run_without(tmp_path, monkeypatch, settings):
    alone = {**settings, "env__source": "envpool"} if "delayed" in settings.get("env__source", "") else settings
    _, expected = run(make_config(**alone))
    with env_workers(tmp_path, monkeypatch) as said:
        _, found = run(remote_config(tmp_path, **settings))
    assert not said
    assert found[-1]["remote/messages/step"] > found[0]["remote/messages/step"] > 0
    assert found[-1]["remote/refused"] == 0
    assert not any(key.startswith("remote/") for row in expected for key in row)
    assert len(expected) == 10
    assert facts(found) == facts(expected)
    assert any("episode/info/parts/a" in row for row in found) == ("log__info_keys" in settings)
