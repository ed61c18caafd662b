"""Evaluations that would never end, refused before they start and stopped where that could not be foreseen.

Every evaluation plays whole episodes. `podrl.envs.evaluation_protocol` says up to which time limit; an environment
without any must end its episodes by itself.
"""

from collections.abc import Callable
import contextlib
import time

import numpy as np

from podrl.config import Config, ConfigError
from podrl.envs import EvaluationProtocol, Source, evaluation_protocol
from podrl.envs.seeds import env_seeds
from podrl.keys import EVALUATE
from podrl.types import EnvSpec

MAX_STEPS = 100_000
MAX_S = 20.0
_REMEDY = "Set env.max_episode_steps to the steps after which an episode is to be cut off."


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
    max_steps: int = 0,
) -> None:
    """Plays one environment without a time limit at random until an episode has ended.

    Args:
        source: makes environments.
        spec: of the environment.
        protocol: by which it is to be played.
        seed: of the environment and the actions.
        remedy: for the message.
        max_steps: to play, in `MAX_S` seconds at the most; 0 for `MAX_STEPS`.

    Raises:
        ConfigError: if none ended.
    """
    if protocol.max_episode_steps is not None:
        return
    rng, until_s, steps = np.random.default_rng(seed), time.monotonic() + MAX_S, 0
    seeds = env_seeds((seed, 0, EVALUATE), [0])
    with contextlib.closing(source.make_pool(protocol.env, seeds=seeds, num_threads=1)) as pool:
        pool.reset()
        while steps < (max_steps or MAX_STEPS) and time.monotonic() < until_s:
            pool.send(spec.actions.sample(rng, (1,)))
            if np.asarray(pool.recv().first).any():  # The row after an episode's last.
                return
            steps += 1
    raise ConfigError(
        f"An evaluation of {protocol.env.id} might never end: it has no time limit that podrl can see, and no episode "
        f"ended in {steps:,} steps of random play. {remedy}"
    )


class EndlessGuard:
    """Ends an evaluation without a time limit in which no episode ends any more; to be told its progress."""

    def __init__(self, protocol: EvaluationProtocol, tell: Callable[[int, int], None] = lambda episodes, step: None):
        """Passes progress on to `tell`."""
        self._is_limited = protocol.max_episode_steps is not None
        self._env_id = protocol.env.id
        self._tell = tell
        self._newest = (0, 0)

    def __call__(self, episodes: int, step: int) -> None:
        """Takes the episodes that have ended, and the steps made in each environment.

        Raises:
            RuntimeError: if none has ended for `MAX_STEPS` steps.
        """
        self._tell(episodes, step)
        if episodes > self._newest[0]:
            self._newest = (episodes, step)
        if not self._is_limited and step - self._newest[1] > MAX_STEPS:
            raise RuntimeError(
                f"No episode of {self._env_id} has ended in the last {MAX_STEPS:,} steps of an evaluation: this policy "
                "never ends one, and there is no time limit. See env.max_episode_steps."
            )
