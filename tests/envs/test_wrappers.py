"""Wrappers named in a config, with arguments."""

import gymnasium
import numpy as np
import pytest

from podrl.config.commandline import load_config, override
from podrl.config.config import ConfigError, EnvConfig
from podrl.config.wrappers import parse_wrapper
from podrl.envs.sources.gymnasium import make_pool


class Scaled(gymnasium.RewardWrapper):
    """Rewards times a factor, plus the sum of some numbers."""

    def __init__(self, env, factor: float = 1.0, plus: tuple[int, ...] = (), kind: str | None = None):
        super().__init__(env)
        assert isinstance(factor, float)
        self.factor, self.plus, self.kind = factor, plus, kind

    def reward(self, reward):
        return float(reward) * self.factor + sum(self.plus) + len(self.kind or "")


NAME = f"{__name__}:Scaled"


def rewards(*wrappers, workers=0):
    config = EnvConfig(source="gymnasium", id="CartPole-v1", wrappers=wrappers, workers=workers)
    pool = make_pool(config, seeds=[1, 2], num_threads=1)
    try:
        pool.reset()
        pool.send(np.zeros(2, np.int32))
        return pool.recv().reward.tolist()
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("wrapper", "reward"),
    [
        (NAME, 1),
        (f"{NAME}()", 1),
        (f"{NAME}(factor=3)", 3),
        (f"{NAME}(factor=0.5, plus=(2, 3))", 5.5),
        (f"{NAME}(plus=[2, 3], kind='ab')", 8),
        (f"{NAME}(kind=None)", 1),
    ],
)
def test_arguments_are_read_as_the_wrapper_expects_them(wrapper, reward):
    assert rewards(wrapper) == [reward] * 2


def test_workers_make_the_same():
    assert rewards(f"{NAME}(factor=3)", f"{NAME}(plus=(1,))", workers=1) == [4, 4]


def test_on_the_command_line():
    text = f"('{NAME}(factor=3, plus=(1, 2))', '{NAME}')"
    config = override(load_config("configs/impala_catch.py"), [f"--config.env.wrappers={text}"])
    assert tuple(config.env.wrappers) == (f"{NAME}(factor=3, plus=(1, 2))", NAME)


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("Scaled", r"env.wrappers: 'Scaled' must be 'module:Name'"),
        (f"{NAME}(3)", r"cannot be read; write arguments as in '.*:Scaled\(size=4, kind=\"x\"\)'"),
        (f"{NAME}(factor=3", r"cannot be read"),
        (f"{NAME}(factor=3)(plus=1)", r"cannot be read"),
        (f"{NAME}(**x)", r"cannot be read"),
        (f"{NAME}(facto=3)", r"takes no argument 'facto'; did you mean 'factor'\? Available: factor, plus, kind\."),
        (f"{NAME}(factor=much)", r"factor='much' is not a number"),
    ],
)
def test_what_does_not_fit_is_refused(wrapper, message):
    with pytest.raises(ConfigError, match=message):
        rewards(wrapper)


def test_parts_of_a_wrapper():
    assert parse_wrapper("k", "a.b:C(x=1, y='z')") == ("a.b", "C", {"x": "1", "y": "'z'"})
