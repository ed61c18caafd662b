"""Keys of `network` that change nothing are refused in a line that says what would use them."""

import jax
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions
from podrl.assembly import assemble
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.no_effect import check_has_effect, describe_unused
from podrl.types import EnvSpec
from tests.short_runs import make_config

VECTOR, IMAGE = jax.ShapeDtypeStruct((3,), np.float32), jax.ShapeDtypeStruct((84, 84, 1), np.uint8)


def spec(observation, actions=None):
    return EnvSpec(id="env", observation=observation, actions=actions or DiscreteActions(2))


BOTH = spec({"camera": IMAGE, "arm": VECTOR})


@pytest.mark.parametrize(
    ("settings", "env", "said"),
    [
        ({"width": 2}, spec(VECTOR), "network.width=2 has no effect: the encoder is an MLP, .* Leave it at 1"),
        ({"width": 2}, BOTH, "network.width=2 has no effect: the encoder is an MLP"),
        (
            {"width": 2, "encoder": "mine:Net"},
            spec(IMAGE),
            "network.width=2 has no effect: network.encoder='mine:Net' has",
        ),
        ({"width": 2, "encoder": "mine:Net"}, BOTH, "network.width=2 .* 'module:Name.size=64.'. Leave it at 1"),
        ({"squash_actions": True}, spec(VECTOR), "network.squash_actions=True .* numbers, .* are choices"),
        ({"action_scale": "observed"}, spec(VECTOR), "network.action_scale='observed' .* Leave it at 'shared'"),
        ({"initial_scale": 0.5}, spec(VECTOR), "network.initial_scale=0.5 .* choices"),
        ({"frame_stack": 4}, spec({"arm": VECTOR, "leg": VECTOR}), "network.frame_stack=4 .* only images are stacked"),
    ],
)
def test_a_key_without_effect_is_refused(settings, env, said):
    with pytest.raises(ConfigError, match=said) as caught:
        check_has_effect(NetworkConfig(**settings), env)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "env"),
    [
        ({}, spec(VECTOR)),
        ({"width": 2, "encoder": "nature"}, spec(IMAGE)),
        ({"width": 2, "encoder": "resnet"}, BOTH),
        ({"width": 2, "parts": ("camera: minatar",)}, BOTH),
        ({"encoder": "mine:Net"}, spec(IMAGE)),
        ({"core": "lstm", "core_size": 64}, spec(VECTOR)),
        ({"frame_stack": 4}, spec(VECTOR)),
        ({"frame_stack": 4}, BOTH),
        ({"squash_actions": True, "action_scale": "observed"}, spec(VECTOR, ContinuousActions(2))),
        ({"hidden_sizes": (8,), "encoder": "resnet"}, spec(IMAGE)),
    ],
)
def test_a_key_with_an_effect_is_taken(settings, env):
    check_has_effect(NetworkConfig(**settings), env)


def test_sizes_that_a_config_file_has_for_another_network_are_said():
    wide = NetworkConfig(encoder="resnet", hidden_sizes=(8,))
    assert describe_unused(wide, spec(IMAGE)) == "without effect: network.hidden_sizes=(8,) (there is no MLP)"
    assert describe_unused(NetworkConfig(core_size=8), spec(VECTOR)).endswith("core_size=8 (network.core='none')")
    assert not describe_unused(NetworkConfig(core_size=8, core="lstm"), spec(VECTOR))
    assert not describe_unused(wide, BOTH)
    assert not describe_unused(wide, spec(IMAGE, ContinuousActions(2)))
    assert not describe_unused(NetworkConfig(encoder="resnet"), spec(IMAGE))


def test_a_run_is_refused():
    with pytest.raises(ConfigError, match=r"network\.width=3 has no effect"):
        assemble(make_config(network__width=3), jax.devices()[:1])
