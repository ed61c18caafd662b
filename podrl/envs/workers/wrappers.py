"""Time limits and other wrappers around a Gymnasium environment."""

from collections.abc import Sequence

import gymnasium

from podrl.config.config import check
from podrl.envs.workers.importable import import_named, type_name


def limit(env: gymnasium.Env, steps: int) -> gymnasium.Env:
    """Limits episodes to a number of steps, instead of any time limits around the environment."""
    limits = time_limits(env)
    for wrapper in limits:
        wrapper._max_episode_steps = steps
    return env if limits else gymnasium.wrappers.TimeLimit(env, steps)


def time_limits(env: gymnasium.Env) -> list[gymnasium.wrappers.TimeLimit]:
    """Returns Gymnasium's time limits around an environment, the outermost first."""
    found = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            found.append(env)
        env = env.env
    return found


def wrap(env: gymnasium.Env, wrappers: Sequence[str], training_wrappers: Sequence[str]) -> gymnasium.Env:
    """Puts wrappers, named as `module:Name`, around an environment, the innermost first.

    Raises:
        ConfigError: if a wrapper does not exist, or returns no environment.
    """
    for name, paths in (("wrappers", wrappers), ("training_wrappers", training_wrappers)):
        for path in paths:
            env = _wrap(env, f"env.{name}", path)
    return env


def _wrap(env: gymnasium.Env, key: str, path: str) -> gymnasium.Env:
    key = f"{key}: {path!r}"
    module_name, _, name = path.rpartition(":")
    wrapper = getattr(import_named(module_name, key), name, None)
    check(callable(wrapper), f"{key} is nothing that can be called with an environment.")
    wrapped = wrapper(env)  # type: ignore[misc]
    check(isinstance(wrapped, gymnasium.Env), f"{key} made a {type_name(wrapped)}; expected a gymnasium.Env.")
    return wrapped
