"""An encoder of a user's own: found, made with its fields, checked in one line, and trained."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.available import make_networks
from podrl.types import ACTION_MASK, VECTOR, EnvSpec, Timestep

MODULE = """
import flax.linen as nn
import jax.numpy as jnp


class Good(nn.Module):
    size: int = 4
    kind: str = "wide"
    dtype: object = None

    @nn.compact
    def __call__(self, observation):
        if isinstance(observation, dict):
            assert sorted(observation) == ["camera", "vector"]
            observation = jnp.concatenate([x.reshape(x.shape[0], -1) for x in observation.values()], axis=-1)
        return nn.Dense(self.size, dtype=self.dtype)(observation.astype(self.dtype))


class Needy(nn.Module):
    size: int

    def __call__(self, observation):
        return observation


class Tokens(nn.Module):
    @nn.compact
    def __call__(self, observation):
        return observation[:, None, :].repeat(3, axis=1)


class Counting(nn.Module):
    @nn.compact
    def __call__(self, observation):
        return nn.BatchNorm(use_running_average=False)(observation)


class Failing(nn.Module):
    def __call__(self, observation):
        raise RuntimeError("two\\nlines")


def function(observation):
    return observation
"""
SPEC = EnvSpec(id="vector", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=DiscreteActions(3))


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_encoders.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def make(encoder, spec=SPEC, **settings):
    return make_networks(NetworkConfig(encoder=encoder, **settings), spec).actor_critic()


def test_its_fields_have_the_values_in_brackets_and_the_dtype_of_activations():
    network = make("own_encoders:Good(size=5, kind='narrow')", compute_dtype="bfloat16")
    params = network.init(jax.random.key(0))
    assert params["encoder"]["Dense_0"]["kernel"].shape == (6, 5)
    assert params["policy"]["kernel"].shape == (5, 3)


def test_it_sees_stacked_frames_and_all_parts_except_the_mask():
    params = make("own_encoders:Good", frame_stack=3).init(jax.random.key(0))
    assert params["encoder"]["Dense_0"]["kernel"].shape == (18, 4)
    parts = {
        "camera": jax.ShapeDtypeStruct((5, 5, 2), jnp.uint8),
        VECTOR: jax.ShapeDtypeStruct((4,), jnp.float32),
        ACTION_MASK: jax.ShapeDtypeStruct((3,), jnp.bool_),
    }
    spec = EnvSpec(id="parts", observation=parts, actions=DiscreteActions(3))
    network = make("own_encoders:Good", spec)
    params = network.init(jax.random.key(0))
    assert params["encoder"]["Dense_0"]["kernel"].shape == (54, 4)


def test_a_core_and_all_heads_are_podrls():
    networks = make_networks(NetworkConfig(encoder="own_encoders:Good", core="lstm", core_size=8), SPEC)
    network = networks.actor_critic()
    assert network.init(jax.random.key(0))["value"]["kernel"].shape == (8, 1)
    q_params = networks.q().init(jax.random.key(0))
    assert "encoder" in q_params


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("mlpp", "network.encoder='mlpp' is not known; did you mean 'mlp'?"),
        (":Good", "must be 'module:Name', such as 'my_package.my_module:MyEncoder'"),
        ("absent_module:Good", "there is no module 'absent_module', neither on Python's path nor in "),
        ("own_encoders:Goood", "has no 'Goood'; did you mean 'Good'? Flax modules in it: Good, Needy, Tokens"),
        ("own_encoders:function", "is of type function, and no Flax module; expected a class derived from"),
        ("own_encoders:Good(sise=3)", "Good has no field 'sise' to set; did you mean 'size'? Available: size, kind."),
        ("own_encoders:Good(dtype=3)", "Good has no field 'dtype' to set"),
        ("own_encoders:Good(size=wide)", "size='wide' is not a number."),
        ("own_encoders:Needy", "Needy needs size. Write Needy(size=...)."),
        ("own_encoders:Tokens", "makes float32[N, 3, 6] of observations float32[N, 6]; expected features [N, F]"),
        ("own_encoders:Counting", "has variables batch_stats; expected parameters alone"),
        ("own_encoders:Failing", "failed on observations float32[N, 6]: RuntimeError: two lines"),
    ],
)
def test_what_does_not_fit_is_one_line(encoder, said):
    with pytest.raises(ConfigError) as caught:
        make(encoder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_encoders_of_parts_have_no_effect_beside_it():
    with pytest.raises(ConfigError, match=r"network.parts=.* has no effect with network.encoder='own_encoders:Good'"):
        NetworkConfig(encoder="own_encoders:Good", parts=("camera: nature",))


def test_the_transformer_of_the_examples_attends_to_all_parts():
    network = make("examples.transformer:Transformer(layers=1, parts=3)")
    params = network.init(jax.random.key(0))
    assert params["encoder"]["place"].shape == (3, 32)

    def value(observation):
        return network.step(params, _timestep(observation), network.initial_carry(1))[0].value[0]

    slopes = np.asarray(jax.grad(value)(jnp.arange(6.0)))
    assert (slopes != 0).all()


def _timestep(observation):

    one = jnp.ones(1)
    return Timestep(observation=observation[None], reward=one, discount=one, first=one > 0)
