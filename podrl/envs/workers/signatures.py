"""The arguments of an environment's constructor, as far as Python can tell."""

from collections.abc import Callable, Mapping
import contextlib
import inspect
from typing import Any

from podrl.config.config import check, check_not_a_setting, did_you_mean
from podrl.config.type_hints import hint_of, or_none


def check_arguments(env_id: str, creator: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raises `ConfigError` if the creator does not take these arguments, or requires more."""
    parameters = _parameters(creator)
    if parameters is None:
        return
    named, takes_all = _named(parameters), _takes_all(parameters)
    shown = sorted(set(named) - {"render_mode"})
    for name in arguments:
        if takes_all or name in named:
            continue
        check_not_a_setting(name, env_id)
        check(
            False,
            f"env.options.{name} is not an option of {env_id}{did_you_mean(name, shown)} "
            f"Available: {', '.join(shown) or 'none'}.",
        )
    missing = [name for name, p in named.items() if p.default is p.empty and name not in arguments]
    check(not missing, f"env.options.{(missing or [''])[0]} is missing: env.id={env_id!r} needs it.")


def takes_argument(creator: Callable[..., Any], name: str) -> bool:
    """Returns whether a class or function takes an argument of that name."""
    parameters = _parameters(creator) or {}
    return name in parameters or _takes_all(parameters)


def argument_hints(creator: Callable[..., Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns a type hint for each argument that a class or function names.

    Args:
        creator: the class or function.
        defaults: defaults of its registration, which take precedence over its own.

    Returns:
        The annotation if there is one, or None, which many arguments annotated as `str` accept too. Otherwise the hint
        that `podrl.config.type_hints.hint_of` derives from the default.
    """
    hints = {}
    for name, parameter in _named(_parameters(creator) or {}).items():
        default = (defaults or {}).get(name, parameter.default)
        annotated = parameter.annotation is not parameter.empty and not isinstance(parameter.annotation, str)
        hints[name] = or_none(parameter.annotation) if annotated else hint_of(default, is_signature=True)
    return hints


def _named(parameters: Mapping[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    others = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind not in others}


def _takes_all(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _parameters(creator: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Returns the parameters of a class or function, with evaluated annotations if possible; None if unknown."""
    with contextlib.suppress(Exception):  # Evaluating an annotation runs any code; it may work for type checkers only.
        return inspect.signature(creator, eval_str=True).parameters
    try:
        return inspect.signature(creator).parameters
    except (TypeError, ValueError):
        return None
