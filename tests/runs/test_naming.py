"""What folders of runs are called for which the user gave no name."""

import re

import pytest

from podrl.runs.naming import default_folder, job_folder


@pytest.mark.parametrize(
    ("env_id", "named"),
    [
        ("Pong-v5", "runs/impala_atari-Pong-v5"),
        ("ale_py:ALE/Pong-v5", "runs/impala_atari-Pong-v5"),
        ("my_package.my_env:MyEnv", "runs/impala_atari-MyEnv"),
        ("a b*?[c]\\d", "runs/impala_atari-a-b-c-d"),
        ("x" * 400, f"runs/impala_atari-{'x' * 60}"),
        ("", "runs/impala_atari"),
    ],
)
def test_they_have_the_environment_in_their_name(env_id, named):
    assert re.fullmatch(rf"{re.escape(named)}-\d{{8}}-\d{{6}}", default_folder("impala_atari", env_id))
    environ = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    assert job_folder("impala_atari", env_id, environ) == f"{named}-job-7.0"
    assert job_folder("impala_atari", env_id, {}) is None
