"""Which keys of the section `remote` make another run, and which say only who steps its environments."""

import json

import pytest

from podrl.config.config import ConfigError
from podrl.config.config_dict import to_dict
from podrl.runs.workdir import make_workdir
from tests.short_runs import make_config

EVERY = {"remote__timeout_s": 1.0, "remote__actor_workers": 1}
DRIFT = {**EVERY, "remote__publish": "drift", "remote__max_drift": 0.1}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"remote__timeout_s": 1.0, "remote__env_workers": 2}),
        ({}, EVERY),
        ({}, {**DRIFT, "remote__max_drift": 0.0}),
        ({"remote__publish": "drift"}, {"remote__publish_every": 4}),
        (DRIFT, {**DRIFT, "remote__address": "127.0.0.1:9000"}),
        (EVERY, {**EVERY, "remote__reference_steps": 64}),
    ],
)
def test_a_run_resumes_with_whatever_makes_the_same_rollouts(tmp_path, before, after):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(make_config(**before))))
    make_workdir(make_config(**after), str(tmp_path))


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({}, DRIFT, r"remote\.publish was every, is drift"),
        (DRIFT, {}, r"remote\.actor_workers was 1, is 0"),
        (EVERY, {**EVERY, "remote__publish_every": 4}, r"remote\.publish_every was 1, is 4"),
        (DRIFT, {**DRIFT, "remote__max_drift": 0.2}, r"remote\.max_drift was 0\.1, is 0\.2"),
    ],
)
def test_parameters_that_act_at_other_updates_make_another_run(tmp_path, before, after, why):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(make_config(**before))))
    with pytest.raises(ConfigError, match=why):
        make_workdir(make_config(**after), str(tmp_path))
    make_workdir(make_config(**after), str(tmp_path), accept_changes=True)
