"""Makes one Gymnasium environment from a name and options: a registered id, or a user's own class or function."""

from collections.abc import Callable, Mapping
import copy
import dataclasses
import inspect
import sys
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from podrl.config.config import ConfigError, check, did_you_mean
from podrl.config.extras import install_command
from podrl.envs.workers.importable import type_name
from podrl.envs.workers.info_mask import MaskFromInfo
from podrl.envs.workers.signatures import argument_hints, check_arguments, takes_argument
from podrl.envs.workers.wrappers import limit, wrap
from podrl.runtime.process_exit import describe_error
from podrl.runtime.user_imports import import_named

# Errors of registered environments about options that they reject, or packages that are missing.
_REFUSALS = (gymnasium.error.Error, AssertionError, ImportError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make an environment; plain values, so that it can be sent to another process.

    Attributes:
        id: an id that Gymnasium knows (`CartPole-v1`), one that it knows once a module is imported
            (`ale_py:ALE/Pong-v5`), or a `gymnasium.Env` class or a function that returns an environment
            (`my_package.my_env:MyEnv`).
        arguments: arguments of the environment's constructor.
        max_episode_steps: steps after which an episode is truncated; 0 leaves that to the environment.
        wrappers: wrappers around it as `module:Name`, the innermost first; each is called with an environment.
        training_wrappers: wrappers around those, in the same form.
        render_mode: None, or `rgb_array` for pictures.
        info_mask: the entry of `info` that is an action mask, and becomes an entry of the observation; empty for none.
    """

    id: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_episode_steps: int = 0
    wrappers: tuple[str, ...] = ()
    training_wrappers: tuple[str, ...] = ()
    render_mode: str | None = None
    info_mask: str = ""

    def make(self) -> gymnasium.Env:
        """Makes a new environment.

        Raises:
            ConfigError: if there is none of that name, or it rejects the arguments. Errors of a user's own environment
                pass unchanged, except `ValueError`.
        """
        env = self._make_registered() if (creator := find_creator(self.id)) is None else self._make_own(creator)
        if self.max_episode_steps:
            env = limit(env, self.max_episode_steps)
        env = wrap(env, self.wrappers, self.training_wrappers)
        return MaskFromInfo(env, self.info_mask) if self.info_mask else env

    def _make_registered(self) -> gymnasium.Env:
        """Makes an environment that Gymnasium knows."""
        spec = _registered(self.id)
        drawing = {} if self.render_mode is None else {"render_mode": self.render_mode}
        try:
            if callable(creator := _load(self.id, spec)):
                check_arguments(self.id, creator, {**spec.kwargs, **self.arguments})
            # Not passed as arguments of `make`, which keeps those with names of its own; it copies these.
            arguments = {**spec.kwargs, **self.arguments, **drawing}
            return gymnasium.make(dataclasses.replace(spec, kwargs=arguments), disable_env_checker=True)
        except ConfigError:
            raise
        except _REFUSALS as error:
            given = f" with env.options={dict(self.arguments)}" if self.arguments else ""
            raise ConfigError(f"Gymnasium cannot make env.id={self.id!r}{given}: {_one_line(error)}") from error

    def _make_own(self, creator: Callable[..., Any]) -> gymnasium.Env:
        """Makes an environment of the user's own."""
        arguments = copy.deepcopy(dict(self.arguments))  # An environment may change its arguments.
        if self.render_mode is not None:
            check(
                takes_argument(creator, "render_mode"),
                f"env.id={self.id!r} has no pictures: its constructor takes no render_mode.",
            )
            arguments["render_mode"] = self.render_mode
        check_arguments(self.id, creator, arguments)
        try:
            env = creator(**arguments)
        except ValueError as error:
            raise ConfigError(f"env.id={self.id!r} cannot be made: {_one_line(error)}") from error
        check(
            isinstance(env, gymnasium.Env),
            f"env.id={self.id!r} made a {type_name(env)}; expected a gymnasium.Env.",
        )
        return env


def constructor_hints(env_id: str) -> dict[str, Any]:
    """Returns a type hint for each argument that the environment's constructor names; see `argument_hints`.

    Raises:
        ConfigError: if there is no environment of that name, or a package is missing.
    """
    if (creator := find_creator(env_id)) is not None:
        return argument_hints(creator)
    spec = _registered(env_id)
    loaded = _load(env_id, spec)
    return argument_hints(loaded, spec.kwargs) if callable(loaded) else {}


def _load(env_id: str, spec: Any) -> Any:
    """Returns the class or function that makes a registered environment.

    Raises:
        ConfigError: if its module's import fails, or it is missing there; the message names the module.
    """
    if not isinstance(spec.entry_point, str):
        return spec.entry_point
    try:
        return load_env_creator(spec.entry_point)
    except (Exception, SystemExit) as error:
        module = spec.entry_point.partition(":")[0]
        reason = " ".join(describe_error(error).split())
        raise ConfigError(f"Gymnasium cannot make env.id={env_id!r}: its module {module!r}: {reason}") from error


def find_creator(env_id: str) -> Callable[..., Any] | None:
    """Returns the class or function that `module:Name` names, or None if the id is one of Gymnasium's.

    Gymnasium has ids of this form too: `module:Id` stands for `Id` after an import of the module. The module is
    imported in either case; a name that it defines means the environment, and any other an id.

    Raises:
        ConfigError: if there is no such module, or the name does not stand for anything that makes environments.
    """
    module_name, colon, name = env_id.rpartition(":")
    if not colon:
        return None
    module = import_named(module_name, f"env.id={env_id!r}")
    if not name.isidentifier() or not hasattr(module, name):
        known = [key for key, value in vars(module).items() if _is_env_class(value)]
        check(
            name in gymnasium.registry,
            f"env.id={env_id!r}: module {module_name!r} has no {name!r}, and Gymnasium knows no such id"
            f"{did_you_mean(name, [*known, *gymnasium.registry])}"
            + (f" Environments in that module: {', '.join(sorted(known))}." if known else ""),
        )
        return None
    creator = getattr(module, name)
    if inspect.isclass(creator):
        check(
            issubclass(creator, gymnasium.Env),
            f"env.id={env_id!r} is a class, but no gymnasium.Env: derive it, or name a function that returns one.",
        )
    check(
        callable(creator),
        f"env.id={env_id!r} is of type {type_name(creator)}; expected a gymnasium.Env class, or a function that "
        "returns an environment.",
    )
    return creator


def _registered(env_id: str) -> Any:
    """Returns Gymnasium's spec of an id."""
    name = env_id.rpartition(":")[2]
    hint = (
        f" Atari is env.source='ale' here, or 'ale_py:ALE/Pong-v5' after {install_command('ale')}."
        if name.startswith("ALE/")
        else " An environment of your own is 'my_package.my_env:MyEnv'."
    )
    check(
        name in gymnasium.registry,
        f"env.id={env_id!r} is not registered with Gymnasium{_where()}{did_you_mean(name, gymnasium.registry)}{hint}",
    )
    return gymnasium.registry[name]


def _where() -> str:
    """Returns a note if this is a worker, which does not know a script's or notebook's registrations; else empty."""
    program = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    is_worker = program == "podrl.envs.workers.worker"
    return " in a worker process, which imports only what env.id='my_module:MyEnv-v0' names" if is_worker else ""


def _is_env_class(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, gymnasium.Env) and value is not gymnasium.Env


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
