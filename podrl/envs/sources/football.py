"""Google Research Football: EnvPool's, with the checkpoint reward and features of its minimap.

`env.id` is one of EnvPool's `gfootball/...`; `env.options` are EnvPool's, and

- `checkpoints`: pay 0.1 for each of ten distances to the opponents' goal at which the active player has the ball for
  the first time in an episode, and the rest of them for a goal. EnvPool gives the ball's cell on the minimap and not
  its position, so a distance is known to about 0.01 (the field is 2 long), and the active player counts as having the
  ball if his team has it and he is in its cell or an adjacent one. Evaluation counts goals alone.
- `observation`: `minimap`, [72, 96, 4] uint8 with a layer each for our players, theirs, the ball and the active player,
  or `features`, 12 numbers computed from that for small networks. Neither has speeds: see network.frame_stack.

An action is one of 19 and lasts 10 steps of physics. Academy scenarios end when possession is lost. In `info`, `score`
is the difference of goals, ours less theirs.

Source: Kurach et al. 2020, arXiv:1907.11180.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from podrl.config.config import EnvConfig, check, check_one_of
from podrl.envs.source import EvaluationProtocol, Source
from podrl.envs.sources import envpool
from podrl.envs.workers.info import Numbers
from podrl.types import EnvSpec, Timestep

_HEIGHT, _WIDTH = 72, 96
_TOP = 1 / 2.25  # y at the minimap's lower edge, in units of half the field's length.
_OURS, _THEIRS, _BALL, _ACTIVE = range(4)
_NUM_CHECKPOINTS = 10
_CHECKPOINT_REWARD = 0.1
# Distances to the middle of the goal: ten, evenly spaced from far to near.
_CHECKPOINTS = np.linspace(0.99, 0.19, _NUM_CHECKPOINTS)
_NUM_FEATURES = 12
_NEAR = 10.0  # Factor: within a tenth of half the field's length the ball's direction from the player matters most.
_DEFAULTS = {"checkpoints": False, "observation": "minimap"}
_COLOURS = np.array([[220, 60, 60], [70, 110, 240], [255, 255, 255], [255, 220, 60]], np.uint8)
_GRASS = np.array([30, 90, 40], np.uint8)
_STEPS_PER_SECOND = 10.0


def make_spec(config: EnvConfig) -> EnvSpec:
    """Describes one match; see the module for `config.options`.

    Raises:
        ConfigError: on an unknown scenario or option.
    """
    own, inner = _split(config)
    spec = envpool.make_spec(inner)
    if own["observation"] == "features":
        return dataclasses.replace(
            spec,
            observation=jax.ShapeDtypeStruct((_NUM_FEATURES,), np.float32),
            observed=f"vector of {_NUM_FEATURES} features of the minimap",
            env_before={},
        )
    return spec


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> "FootballPool":
    """Makes one match per seed, stepped by `num_threads` C++ threads.

    Raises:
        ConfigError: as in `make_spec`.
        ValueError: if there are no seeds or no threads.
    """
    own, inner = _split(config)
    pool = envpool.make_pool(inner, seeds=seeds, num_threads=num_threads)
    return FootballPool(
        pool, num_envs=len(seeds), checkpoints=own["checkpoints"], features=own["observation"] == "features"
    )


def option_hints(config: EnvConfig) -> dict[str, Any]:
    """Returns a type hint for each option of the match. Raises as `make_spec` does."""
    return envpool.option_hints(config) | {name: type(default) for name, default in _DEFAULTS.items()}


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    """Returns the protocol: goals alone count, and episodes are as long as the scenario's.

    Raises:
        ConfigError: as in `make_spec`.
    """
    own, inner = _split(config)
    protocol = envpool.evaluation_protocol(inner)
    options = {**protocol.env.options, "observation": own["observation"], "checkpoints": False}
    return EvaluationProtocol(
        env=dataclasses.replace(config, max_episode_steps=0, options=options),
        facts={**protocol.facts, "checkpoints": False},
        max_episode_steps=protocol.max_episode_steps,
        steps_per_second=_STEPS_PER_SECOND,
    )


class FootballPool:
    """EnvPool's matches with optional checkpoint rewards and features; see `podrl.envs.source.Pool`."""

    def __init__(self, pool: Any, *, num_envs: int, checkpoints: bool, features: bool):
        """Takes over EnvPool's `pool`, which observes minimaps."""
        self._pool = pool
        self._pays = checkpoints
        self._features = features
        self._collected = np.zeros(num_envs, int)
        self._minimap: Any = None
        self.send, self.close = pool.send, pool.close

    @property
    def ended_numbers(self) -> Numbers:
        """See `podrl.envs.info.InfoPool`."""
        return self._pool.ended_numbers

    def record_info(self, keys: Sequence[str]) -> None:
        """See `podrl.envs.info.InfoPool`."""
        self._pool.record_info(keys, _with_difference)

    def reset(self) -> Timestep:
        """Opens a match in every environment."""
        self._collected[:] = 0
        return self._seen(self._pool.reset())

    def recv(self) -> Timestep:
        """Waits for the step that `send` started."""
        timestep = self._pool.recv()
        if self._pays:
            owns = np.asarray(self._pool.extras["ball_owned_team"]) == 0
            paid, self._collected = checkpoint_reward(timestep, owns, self._collected)
            timestep = dataclasses.replace(timestep, reward=timestep.reward + paid)
        return self._seen(timestep)

    def picture(self, env: int) -> np.ndarray:
        """Returns the minimap of environment `env`, uint8 [72, 96, 3]: us red, them blue, the active player yellow."""
        picture = np.broadcast_to(_GRASS, (_HEIGHT, _WIDTH, 3)).copy()
        for layer in (_OURS, _THEIRS, _ACTIVE, _BALL):
            picture[self._minimap[env, :, :, layer] > 0] = _COLOURS[layer]
        return picture

    def _seen(self, timestep: Timestep) -> Timestep:
        self._minimap = timestep.observation
        if not self._features:
            return timestep
        return dataclasses.replace(timestep, observation=features(timestep.observation))


def _with_difference(extras: Mapping[str, Any]) -> dict[str, Any]:
    """Returns EnvPool's extras with one number as score, from [B, 2] goals of ours and theirs."""
    return {**extras, "score": np.subtract(*np.asarray(extras["score"]).T)}


def checkpoint_reward(timestep: Timestep, owns: np.ndarray, collected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes what checkpoints pay in addition to the goals.

    Args:
        timestep: the timestep of [B], with minimaps.
        owns: [B] bool; whether our team has the ball.
        collected: [B]; checkpoints of each episode before this step.

    Returns:
        [B] float32 reward, and [B] checkpoints collected so far.
    """
    collected = np.where(timestep.first, 0, collected)
    ball, active = (_cell(timestep.observation[..., layer]) for layer in (_BALL, _ACTIVE))
    has_ball = owns & (np.abs(ball - active).max(axis=1) <= 1) & ~timestep.first
    distance = np.linalg.norm(_place(ball) - [1.0, 0.0], axis=1)
    reached = np.where(has_ball, np.sum(distance[:, np.newaxis] <= _CHECKPOINTS, axis=1), 0)
    reached = np.where(timestep.reward > 0, _NUM_CHECKPOINTS, reached)
    reached = np.maximum(reached, collected)
    return (_CHECKPOINT_REWARD * (reached - collected)).astype(np.float32), reached


def features(minimap: np.ndarray) -> np.ndarray:
    """Computes 12 numbers from each minimap.

    They are the positions (x from -1, our goal, to 1, theirs; y in the same unit) of the ball, of the active player and
    of the opponent nearest to his own goal, who is the keeper if there is one; the vector from the player to the ball,
    ten times as large and clipped to [-1, 1]; the vector from the ball to the middle of their goal; and the ball's
    distances to that point and to that opponent. What is not on the map has position 0.

    Args:
        minimap: [B, 72, 96, 4] uint8.

    Returns:
        [B, 12] float32.
    """
    ball, player = (_place_of(minimap[..., layer], _cell(minimap[..., layer])) for layer in (_BALL, _ACTIVE))
    keeper = _place_of(minimap[..., _THEIRS], _rightmost_cell(minimap[..., _THEIRS]))
    to_ball, to_goal = np.clip(_NEAR * (ball - player), -1, 1), np.array([1.0, 0.0]) - ball
    lengths = [np.linalg.norm(way, axis=1, keepdims=True) for way in (to_goal, ball - keeper)]
    return np.concatenate([ball, player, keeper, to_ball, to_goal, *lengths], axis=1, dtype=np.float32)


def _cell(layer: np.ndarray) -> np.ndarray:
    """Returns [B, 2] row and column of the one nonzero cell of each layer [B, H, W]; of several, the uppermost."""
    index = np.reshape(layer, (len(layer), -1)).argmax(axis=1)
    return np.stack(np.divmod(index, _WIDTH), axis=1)


def _rightmost_cell(layer: np.ndarray) -> np.ndarray:
    """Returns what `_cell` does, but of several cells the one farthest to the right."""
    columns = np.swapaxes(layer[:, :, ::-1], 1, 2)
    column, row = np.divmod(np.reshape(columns, (len(layer), -1)).argmax(axis=1), _HEIGHT)
    return np.stack([row, _WIDTH - 1 - column], axis=1)


def _place(cell: np.ndarray) -> np.ndarray:
    """Returns [B, 2] x and y of the centres of cells [B, 2]."""
    row, column = cell[:, 0], cell[:, 1]
    return np.stack([2 * (column + 0.5) / _WIDTH - 1, _TOP * (2 * (row + 0.5) / _HEIGHT - 1)], axis=1)


def _place_of(layer: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Returns the position of a cell, or 0 where the layer is empty."""
    is_there = np.reshape(layer, (len(layer), -1)).any(axis=1, keepdims=True)
    return np.where(is_there, _place(cell), 0.0)


def _split(config: EnvConfig) -> tuple[dict[str, Any], EnvConfig]:
    """Returns the two options above, checked and complete, and the rest of the config, for EnvPool.

    Raises:
        ConfigError: if an option is wrong, or EnvPool has no such scenario.
    """
    own = {name: config.options.get(name, default) for name, default in _DEFAULTS.items()}
    check(
        type(own["checkpoints"]) is bool,
        f"env.options.checkpoints={own['checkpoints']!r} must be True or False.",
    )
    check_one_of("env.options.observation", own["observation"], ("features", "minimap"))
    check(
        config.id.startswith("gfootball/"),
        f"env.id={config.id!r} is no football; expected one of EnvPool's, such as 'gfootball/academy_empty_goal-v1'.",
    )
    check(config.channels != "first", "env.channels='first' cannot be: football's minimaps have their channels last.")
    others = {name: value for name, value in config.options.items() if name not in own}
    return own, dataclasses.replace(config, options=others)


SOURCE = Source(
    make_spec=make_spec,
    make_pool=make_pool,
    gives_info=True,
    settings=envpool.SOURCE.settings,
    option_hints=option_hints,
    evaluation_protocol=evaluation_protocol,
    make_picture_pool=make_pool,
)
