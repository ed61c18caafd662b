"""Short runs from Python, for these tests."""

import podrl
from tests.processes import ROOT

# Tests have eight devices.
ONE_DEVICE = {
    "topology.actor_devices_per_process": 1,
    "topology.learner_devices_per_process": 1,
    "actors.num_envs": 4,
    "actors.unroll_length": 5,
    "actors.pools_per_thread": 1,
    "log.tensorboard": False,
}
CATCH = ROOT / "configs/impala_catch.py"


def train(workdir, config=CATCH, **overrides):
    values = {**ONE_DEVICE, **{key.replace("__", "."): value for key, value in overrides.items()}}
    return podrl.run(config, workdir=workdir, overrides={"total_env_steps": 80, **values})
