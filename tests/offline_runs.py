"""Small runs from data sets whose every number is known."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from podrl.actions import ContinuousActions
from podrl.config.config import Config
from podrl.types import EnvSpec
from tests.data.episodes import make_episode, write_episodes
from tests.processes import ROOT
from tests.short_runs import make_config

PENDULUM = EnvSpec(id="Pendulum-v1", observation=jax.ShapeDtypeStruct((3,), np.float32), actions=ContinuousActions(1))
# 600 updates of two learner steps each, one row for each.
COMMAND = (
    *("--config", ROOT / "configs/td3_halfcheetah.py", "--config.env.source=gymnasium"),
    *("--config.env.id=Pendulum-v1", "--config.total_updates=600", "--config.data.learner_steps=2"),
    *("--config.data.batch=32", "--config.network.hidden_sizes=(16,)", "--config.checkpoint.every_updates=50"),
    *("--config.log.every_updates=1", "--config.log.tensorboard=False"),
)


def write_pendulum(folder: Path, episodes: int = 40, **settings: Any) -> Path:
    """A data set of noise in the pendulum's form: episodes of 5 to 11 steps, of which every other was cut off."""
    made = (make_episode(number, 5 + number % 7, PENDULUM, truncated=number % 2 == 0) for number in range(episodes))
    return write_episodes(folder, made, PENDULUM, **settings)


def offline_config(path: Path | str, *, agent: str = "td3", **overrides: Any) -> Config:
    """Six updates of two learner steps each from a data set of the pendulum; overrides as for `make_config`."""
    settings: dict[str, Any] = {
        "env__source": "gymnasium",
        "total_env_steps": 0,
        "total_updates": 6,
        "network__squash_actions": True,
        "data__path": str(path),
        "data__batch": 16,
        "data__learner_steps": 2,
        "log__tensorboard": False,
        "evaluate__episodes": 1,
    }
    return make_config("Pendulum-v1", agent=agent, **{**settings, **overrides})
