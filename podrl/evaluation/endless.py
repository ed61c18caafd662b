"""Refuses evaluations that would never end, and stops those for which that could not be foreseen.

Every evaluation plays whole episodes. `podrl.envs.source.evaluation_protocol` says up to which time limit; an
environment without a time limit must end its episodes by itself.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import time

import numpy as np

from podrl.config import programs
from podrl.config.config import Config, ConfigError, EnvConfig
from podrl.envs.action_masks import random_actions
from podrl.envs.opening import make_pool
from podrl.envs.seeds import env_seeds
from podrl.envs.settings import check_settings
from podrl.envs.source import EvaluationProtocol, Source, evaluation_protocol
from podrl.evaluation.episodes import numbers_of_evaluation
from podrl.ops.keys import EVALUATE
from podrl.types import EnvSpec

MAX_STEPS = 100_000
MAX_S = 20.0
_STRETCH = 10  # Times the time limit: a wrapper may turn one step into several.
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
    """Checks that the evaluations of a run can end.

    Args:
        config: the run's config.
        source: makes environments.
        spec: the environment's spec.
        watching: called with a description, returns a context that is open while the environment is played.

    Raises:
        ConfigError: if an evaluation might not end, or the environment cannot be played by its own protocol.
    """
    if config.evaluate.every_updates:
        with watching(f"env.id={config.env.id!r} in the check that its evaluations end"):
            (number,) = numbers_of_evaluation(config, 1)
            protocol = evaluation_protocol(source, config.env, env_number=number)
            check_ends(source, spec, protocol, seed=config.seed, env_number=number, remedy=_REMEDY)


def check_ends(
    source: Source,
    spec: EnvSpec,
    protocol: EvaluationProtocol,
    *,
    seed: int,
    remedy: str,
    env_number: int = 0,
) -> None:
    """Plays one environment at random until an episode has ended, if it has no time limit.

    Args:
        source: makes environments.
        spec: the environment's spec.
        protocol: the evaluation protocol.
        seed: seed of the environment and the actions.
        remedy: advice for the message, if the environment accepts a limit.
        env_number: number of the environment.

    Raises:
        ConfigError: if no episode ended.
    """
    if protocol.max_episode_steps is not None:
        return
    rng, began_s, steps = np.random.default_rng(seed), time.monotonic(), 0
    seeds = env_seeds((seed, 0, EVALUATE), [0])
    opened = make_pool(source, protocol.env, seeds=seeds, env_numbers=[env_number], num_threads=1)
    with contextlib.closing(opened) as pool:
        timestep = pool.reset()
        while steps < MAX_STEPS and time.monotonic() < began_s + MAX_S:
            pool.send(random_actions(spec.actions, rng, timestep))
            timestep = pool.recv()
            if np.asarray(timestep.first).any():  # The row after an episode's last row.
                return
            steps += 1
    raise ConfigError(
        f"An evaluation of {protocol.env.id} might never end: it has no time limit that podrl can see, and no episode "
        f"ended in {steps:,} steps ({time.monotonic() - began_s:.0f} s) of random play. "
        f"{remedy if _takes_limit(source, protocol.env) else _NO_REMEDY}"
    )


def _takes_limit(source: Source, env: EnvConfig) -> bool:
    """Returns whether the source accepts `env.max_episode_steps`."""
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
    """Ends an evaluation in which no episode ends any more; called with its progress.

    A time limit is no proof: a wrapper may see the truncation and continue. While an evaluation lasts, some environment
    has not played all of its episodes, and its next episode ends within the limit after its last; how the episodes of
    several environments interleave does not matter.
    """

    def __init__(self, protocol: EvaluationProtocol, tell: Callable[[int, int], None] = lambda episodes, step: None):
        """Passes progress on to `tell`."""
        limit = protocol.max_episode_steps
        self._is_limited = limit is not None
        self._max_steps = MAX_STEPS if limit is None else _STRETCH * (limit + 1)  # A reset is a step too.
        self._env_id = protocol.env.id
        self._tell = tell
        self._newest = (0, 0)

    def __call__(self, episodes: int, step: int) -> None:
        """Records the number of episodes that have ended, and the steps made in each environment.

        Raises:
            EndlessError: if none has ended for `MAX_STEPS` steps, or several times the time limit.
        """
        self._tell(episodes, step)
        if episodes > self._newest[0]:
            self._newest = (episodes, step)
        if step - self._newest[1] > self._max_steps:
            reason = (
                "something around the environment, such as one of env.wrappers, plays on after its time limit."
                if self._is_limited
                else "this policy never ends one, and there is no time limit. Set env.max_episode_steps, or "
                f"--max_episode_steps of {programs.program_of('evaluate')}."
            )
            raise EndlessError(
                f"No episode of {self._env_id} has ended in the last {self._max_steps:,} steps of an evaluation: "
                f"{reason}"
            )
