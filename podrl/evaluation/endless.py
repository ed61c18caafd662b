"""Evaluations that would never end, refused before they start and stopped where that could not be foreseen.

Every evaluation plays whole episodes. `podrl.envs.source.evaluation_protocol` says up to which time limit; an
environment without any must end its episodes by itself.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import time

import numpy as np

from podrl.config.config import Config, ConfigError, EnvConfig
from podrl.envs.seeds import env_seeds
from podrl.envs.settings import check_settings
from podrl.envs.source import EvaluationProtocol, Source, evaluation_protocol
from podrl.ops.keys import EVALUATE
from podrl.types import EnvSpec

MAX_STEPS = 100_000
MAX_S = 20.0
_STRETCH = 10  # Of a time limit: a wrapper may make several steps of one.
_REMEDY = "Set env.max_episode_steps to the steps after which an episode is to be cut off."
_NO_REMEDY = (
    "This environment takes no env.max_episode_steps: train with evaluate.every_updates=0, and use an environment "
    "whose episodes end."
)


def check_evaluation(
    config: Config,
    source: Source,
    spec: EnvSpec,
    *,
    watching: Callable[[str], contextlib.AbstractContextManager[None]] = lambda name: contextlib.nullcontext(),
) -> None:
    """Checks that the evaluations that a run asks for can end.

    Args:
        config: of the run.
        source: makes environments.
        spec: of the environment.
        watching: a context, told what happens in it, for as long as the environment is played.

    Raises:
        ConfigError: if they might not, or the environment cannot be played by its own protocol.
    """
    if config.evaluate.every_updates:
        with watching(f"env.id={config.env.id!r} in the check that its evaluations end"):
            check_ends(source, spec, evaluation_protocol(source, config.env), seed=config.seed, remedy=_REMEDY)


def check_ends(
    source: Source,
    spec: EnvSpec,
    protocol: EvaluationProtocol,
    *,
    seed: int,
    remedy: str,
) -> None:
    """Plays one environment without a time limit at random until an episode has ended.

    Args:
        source: makes environments.
        spec: of the environment.
        protocol: by which it is to be played.
        seed: of the environment and the actions.
        remedy: for the message, where the environment takes a limit.

    Raises:
        ConfigError: if none ended.
    """
    if protocol.max_episode_steps is not None:
        return
    rng, began_s, steps = np.random.default_rng(seed), time.monotonic(), 0
    seeds = env_seeds((seed, 0, EVALUATE), [0])
    with contextlib.closing(source.make_pool(protocol.env, seeds=seeds, num_threads=1)) as pool:
        pool.reset()
        while steps < MAX_STEPS and time.monotonic() < began_s + MAX_S:
            pool.send(spec.actions.sample(rng, (1,)))
            if np.asarray(pool.recv().first).any():  # The row after an episode's last.
                return
            steps += 1
    raise ConfigError(
        f"An evaluation of {protocol.env.id} might never end: it has no time limit that podrl can see, and no episode "
        f"ended in {steps:,} steps ({time.monotonic() - began_s:.0f} s) of random play. "
        f"{remedy if _takes_limit(source, protocol.env) else _NO_REMEDY}"
    )


def _takes_limit(source: Source, env: EnvConfig) -> bool:
    """Whether `env.max_episode_steps` is not refused."""
    limited = dataclasses.replace(env, max_episode_steps=1)
    try:
        check_settings(source, limited)
        source.make_spec(limited)
    except ConfigError:
        return False
    return True


class EndlessError(RuntimeError):
    """An evaluation was ended because its policy ends no episode."""


class EndlessGuard:
    """Ends an evaluation in which no episode ends any more; to be told its progress.

    A time limit is no proof: a wrapper may take notice of a truncation and play on. As long as an evaluation lasts,
    some environment has not played its episodes, and its next one ends within the limit of its last; how the episodes
    of several environments interleave does not matter.
    """

    def __init__(self, protocol: EvaluationProtocol, tell: Callable[[int, int], None] = lambda episodes, step: None):
        """Passes progress on to `tell`."""
        limit = protocol.max_episode_steps
        self._is_limited = limit is not None
        self._max_steps = MAX_STEPS if limit is None else _STRETCH * (limit + 1)  # A reset is a step, too.
        self._env_id = protocol.env.id
        self._tell = tell
        self._newest = (0, 0)

    def __call__(self, episodes: int, step: int) -> None:
        """Takes the episodes that have ended, and the steps made in each environment.

        Raises:
            EndlessError: if none has ended for `MAX_STEPS` steps, or many times the time limit.
        """
        self._tell(episodes, step)
        if episodes > self._newest[0]:
            self._newest = (episodes, step)
        if step - self._newest[1] > self._max_steps:
            reason = (
                "something around the environment, such as one of env.wrappers, plays on after its time limit."
                if self._is_limited
                else "this policy never ends one, and there is no time limit. Set env.max_episode_steps, or "
                "--max_episode_steps of tools/evaluate.py."
            )
            raise EndlessError(
                f"No episode of {self._env_id} has ended in the last {self._max_steps:,} steps of an evaluation: "
                f"{reason}"
            )
