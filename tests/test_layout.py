import types

import jax
import numpy as np
import pytest

from podrl.config import ConfigError, TopologyConfig
from podrl.layout import make_layout, resolve_micro_batches
from podrl.mesh import make_topology
from tests.runs import make_config


def micro_batches(num_devices=1, **overrides):
    topology = make_topology(TopologyConfig(learner_devices_per_process=num_devices), jax.devices()[:num_devices])
    config = resolve_micro_batches(make_config(**overrides), topology)
    make_layout(config, topology)
    return config.agent.micro_batches


@pytest.mark.parametrize(
    ("expected", "num_devices", "overrides"),
    [
        (8, 1, {"agent__minibatches": 2}),  # 32 environments of 20 steps in a minibatch: parts of 4.
        (16, 1, {}),
        (4, 4, {}),
        (4, 1, {"actors__unroll_length": 5}),  # Parts of 16.
        (16, 1, {"actors__unroll_length": 200}),  # As small as the number of parts allows.
        (8, 1, {"actors__num_envs": 512, "agent__minibatches": 2}),
        (2, 1, {"actors__num_envs": 62}),  # 2, 31 or 62 parts are possible.
        (4, 1, {"network__encoder": "nature", "agent__minibatches": 2}),  # Parts of 8 environments.
        (1, 1, {"network__encoder": "mlp"}),
        (2, 1, {"agent__micro_batches": 2}),
    ],
)
def test_a_cpu_learner_takes_images_in_small_parts(expected, num_devices, overrides):
    overrides = {"actors__num_envs": 64, "actors__unroll_length": 20, "network__encoder": "resnet"} | overrides
    assert micro_batches(num_devices, **overrides) == expected


def test_what_the_user_set_is_checked():
    with pytest.raises(ConfigError, match=r"agent\.micro_batches=3 does not divide the 64 environments"):
        micro_batches(actors__num_envs=64, agent__micro_batches=3)


def test_other_backends_take_a_batch_whole():
    gpu = types.SimpleNamespace(platform="gpu")
    learner = types.SimpleNamespace(shape={"data": 1}, devices=np.array([gpu]))
    config = make_config(network__encoder="nature", actors__num_envs=64, actors__unroll_length=20)
    resolved = resolve_micro_batches(config, types.SimpleNamespace(learner=learner))
    assert resolved.agent.micro_batches == 1
