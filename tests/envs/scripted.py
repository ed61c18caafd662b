"""A numpy environment source whose every timestep is known in advance, for tests of whatever steps environments.

`config.env.source = 'tests.envs.scripted'`. Row i of a pool plays episode after episode, episode e of length
`episode_lengths[(i + e) % len(episode_lengths)]`. Actions change nothing.

- observation: [B, 3] float32 (row in the pool, episode, step in the episode); a reset row has step 0.
- reward: the step in the episode, so an episode of length n returns n (n + 1) / 2; a reset row has reward 0.
- discount: 0 on an episode's last step, or 1 with `truncate`.

The environment variable `SCRIPTED_OPTIONS`, in JSON, changes options for one process of a job.

`Pool.steps` counts calls of `recv`, `Pool.actions` keeps what was sent, and `Pool.seeds` what the pool was made from.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import json
import math
import os
import threading
import time
from typing import Any

import jax
import numpy as np

from podrl.actions import DiscreteActions
from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.source import EvaluationProtocol, Source
from podrl.types import EnvSpec, Timestep

_pool_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """`config.env.options`.

    Attributes:
        episode_lengths: steps of the episodes, in turn.
        truncate: episodes end by truncation instead of termination.
        num_actions: size of the action set.
        raise_at_step: `recv` number (from 1) that raises `RuntimeError`; 0 never does.
        hang_at_step: `recv` number (from 1) that blocks for `hang_s` or until `close`; 0 never does.
        hang_s: seconds of that; an hour by default.
        hang_until: file whose coming ends it before.
        nan_at_step: `recv` number (from 1) with rewards of `nan`; 0 never has.
        nan: these rewards.
        wide_at_step: number of the timestep (0 is that of `reset`) whose observations have a fourth entry; -1 none.
        only_in_pool: the pool to which these faults happen, counted from 1 in this process; 0 is all of them.
        sleep_s: seconds that every `recv` takes.
        evaluation: options that evaluation plays with instead.
    """

    episode_lengths: tuple[int, ...] = (3, 5)
    truncate: bool = False
    num_actions: int = 2
    raise_at_step: int = 0
    hang_at_step: int = 0
    hang_s: float = 3600.0
    hang_until: str = ""
    nan_at_step: int = 0
    nan: float = math.nan
    wide_at_step: int = -1
    only_in_pool: int = 0
    sleep_s: float = 0.0
    evaluation: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def make_spec(config: EnvConfig) -> EnvSpec:
    options = _options(config)
    return EnvSpec(
        id=config.id,
        observation=jax.ShapeDtypeStruct((3,), np.float32),
        actions=DiscreteActions(options.num_actions),
    )


def make_pool(config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> "Pool":
    del num_threads
    options, number = _options(config), next(_pool_numbers)
    return Pool(options if options.only_in_pool in (0, number) else _without_faults(options), seeds)


def evaluation_protocol(config: EnvConfig) -> EvaluationProtocol:
    options = dict(config.options) | _options(config).evaluation
    env = dataclasses.replace(config, options=options)
    return EvaluationProtocol(env=env, facts=options, max_episode_steps=max(_options(env).episode_lengths))


class Pool:
    def __init__(self, options: Options, seeds: Sequence[int]):
        self.seeds = tuple(seeds)
        self.steps = 0
        self.actions: list[np.ndarray] = []
        self._options = options
        self._episode = np.zeros(len(seeds), np.int64)
        self._step = np.zeros(len(seeds), np.int64)
        self._sent = False
        self._closed = threading.Event()

    def reset(self) -> Timestep:
        self._check_open()
        self._episode[:] = 0
        self._step[:] = 0
        return self._timestep()

    def send(self, action: np.ndarray) -> None:
        self._check_open()
        if self._sent:
            raise RuntimeError("scripted: send() twice without recv()")
        self.actions.append(np.array(action))
        self._sent = True

    def recv(self) -> Timestep:
        self._check_open()
        if not self._sent:
            raise RuntimeError("scripted: recv() without send()")
        self._sent = False
        self.steps += 1
        time.sleep(self._options.sleep_s)
        if self.steps == self._options.hang_at_step:
            self._hang()
            self._check_open()
        if self.steps == self._options.raise_at_step:
            raise RuntimeError(f"scripted failure at step {self.steps}")
        ended = self._step == self._length()
        self._episode += ended
        self._step = np.where(ended, 0, self._step + 1)
        return self._timestep()

    def close(self) -> None:
        self._closed.set()

    def _hang(self) -> None:
        deadline, until = time.monotonic() + self._options.hang_s, self._options.hang_until
        while time.monotonic() < deadline and not (until and os.path.exists(until)):
            if self._closed.wait(0.01):
                return

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise RuntimeError("scripted: use after close()")

    def _length(self) -> np.ndarray:
        lengths = np.asarray(self._options.episode_lengths)
        return lengths[(np.arange(len(self.seeds)) + self._episode) % len(lengths)]

    def _timestep(self) -> Timestep:
        rows, nan = np.arange(len(self.seeds)), self._options.nan
        terminated = (self._step == self._length()) & (not self._options.truncate)
        entries = [rows, self._episode, self._step, *([rows] if self.steps == self._options.wide_at_step else [])]
        return Timestep(
            observation=np.stack(entries, axis=1).astype(np.float32),
            reward=np.where(self.steps == self._options.nan_at_step > 0, nan, self._step).astype(np.float32),
            discount=np.where(terminated, 0.0, 1.0).astype(np.float32),
            first=self._step == 0,
        )


def _without_faults(options: Options) -> Options:
    return dataclasses.replace(options, raise_at_step=0, hang_at_step=0, nan_at_step=0, wide_at_step=-1)


def _options(config: EnvConfig) -> Options:
    known = {field.name for field in dataclasses.fields(Options)}
    if unknown := sorted(set(config.options) - known):
        raise ConfigError(f"env.options.{unknown[0]} is not an option of the scripted source.")
    options = Options(**config.options | json.loads(os.environ.get("SCRIPTED_OPTIONS", "{}")))
    if min(options.episode_lengths) < 1:
        raise ConfigError(f"env.options.episode_lengths={options.episode_lengths} must all be at least 1.")
    return options


SOURCE = Source(make_spec=make_spec, make_pool=make_pool, evaluation_protocol=evaluation_protocol)
