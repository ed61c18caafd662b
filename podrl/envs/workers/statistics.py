"""Finds wrappers that keep running statistics, which no checkpoint contains."""

import functools

from absl import logging
import gymnasium
from gymnasium.wrappers.utils import RunningMeanStd


def with_statistics(env: gymnasium.Env) -> tuple[str, ...]:
    """Returns the names of the wrappers around an environment that keep a running mean, the outermost first."""
    found = []
    wrapped = env
    while isinstance(wrapped, gymnasium.Wrapper):
        if any(isinstance(value, RunningMeanStd) for value in vars(wrapped).values()):
            found.append(type(wrapped).__name__)
        wrapped = wrapped.env
    return tuple(found)


@functools.cache  # A run describes its environment several times.
def warn_of_statistics(names: tuple[str, ...]) -> None:
    """Warns of the wrappers that `with_statistics` found."""
    if names:
        logging.warning(
            "%s: a wrapper with statistics of its own. Each environment has others, a resumed run starts them "
            "anew, and so does an evaluation. Use network.normalize_observations=True and "
            "network.normalize_rewards=True instead, which checkpoints keep.",
            ", ".join(names),
        )
