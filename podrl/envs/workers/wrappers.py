"""Time limits and other wrappers around a Gymnasium environment."""

from collections.abc import Sequence
from typing import Any

import gymnasium

from podrl.config.config import check, did_you_mean
from podrl.config.reading import read_key
from podrl.config.wrappers import parse_wrapper
from podrl.envs.workers.importable import type_name
from podrl.envs.workers.signatures import argument_hints, takes_argument
from podrl.runtime.user_imports import import_named


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
    """Puts wrappers, named as `podrl.config.wrappers` has it, around an environment, the innermost first.

    Raises:
        ConfigError: if a wrapper does not exist, or returns no environment.
    """
    for name, paths in (("wrappers", wrappers), ("training_wrappers", training_wrappers)):
        for path in paths:
            env = _wrap(env, f"env.{name}", path)
    return env


def _wrap(env: gymnasium.Env, key: str, path: str) -> gymnasium.Env:
    call, key = parse_wrapper(key, path), f"{key}: {path!r}"
    wrapper: Any = getattr(import_named(call.module, key), call.name, None)
    check(callable(wrapper), f"{key} is nothing that can be called with an environment.")
    hints = argument_hints(wrapper)
    for name in call.arguments:
        known = list(hints)[1:]
        check(
            takes_argument(wrapper, name),
            f"{key} takes no argument {name!r}{did_you_mean(name, known)} Available: {', '.join(known) or 'none'}.",
        )
    arguments = {name: read_key(f"{key}: {name}", text, hints.get(name, Any)) for name, text in call.arguments.items()}
    wrapped = wrapper(env, **arguments)
    check(isinstance(wrapped, gymnasium.Env), f"{key} made a {type_name(wrapped)}; expected a gymnasium.Env.")
    return wrapped
