"""Wrappers that keep running statistics, of which no checkpoint knows."""

import functools

from absl import logging
import gymnasium
from gymnasium.wrappers.utils import RunningMeanStd


def with_statistics(env: gymnasium.Env) -> tuple[str, ...]:
    """Names of the wrappers around an environment that keep a running mean, the outermost first."""
    found = []
    wrapped = env
    while isinstance(wrapped, gymnasium.Wrapper):
        if any(isinstance(value, RunningMeanStd) for value in vars(wrapped).values()):
            found.append(type(wrapped).__name__)
        wrapped = wrapped.env
    return tuple(found)


@functools.cache  # A run describes its environment several times.
def warn_of_statistics(names: tuple[str, ...]) -> None:
    """Warns of what `with_statistics` found."""
    if names:
        logging.warning(
            "%s: a wrapper with statistics of its own. Each environment has others, a run that goes on starts them "
            "anew, and so does an evaluation. Use network.normalize_observations=True and "
            "network.normalize_rewards=True instead, which checkpoints keep.",
            ", ".join(names),
        )
