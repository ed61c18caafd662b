"""The example of an image beside a vector asks what both together answer."""

from gymnasium.utils.env_checker import check_env
import jax
import numpy as np

from examples.image_and_vector import Marked
from podrl.assembly import assemble, resolve
from podrl.config.commandline import load_config
from podrl.types import VECTOR
from tests.processes import ROOT


def test_the_image_and_the_vector_together_answer_and_none_alone():
    env = Marked()
    check_env(env, skip_render_check=True)
    observation, _ = env.reset(seed=1)
    answered = {"both": [], "image": [], "vector": []}
    for _ in range(50):
        steps, ended = 0, False
        while not ended:
            image, vector = observation["image"][..., 0], observation["asked"]
            sides = (image == 255).any(axis=0).reshape(2, -1).sum(axis=1)
            assert sorted(sides) == [0, 8]
            side, other = int(np.argmax(sides)), int(vector[1])
            observation, reward, ended, _, _ = env.step(side ^ other)
            answer = side ^ other if reward else 1 - (side ^ other)
            for name, guess in {"both": side ^ other, "image": side, "vector": other}.items():
                answered[name].append(guess == answer)
            steps += 1
        assert steps == 4
        observation, _ = env.reset()
    assert all(answered["both"])
    assert all(0.35 < np.mean(answered[name]) < 0.65 for name in ("image", "vector"))


def test_its_config_finds_it_and_sees_both_parts():
    config = load_config(str(ROOT / "examples/ppo_image_and_vector.py"))
    spec = assemble(resolve(config), jax.devices()[:1]).spec
    assert spec.observation["image"].shape == (48, 48, 1)
    assert spec.observation[VECTOR].shape == (2,)
