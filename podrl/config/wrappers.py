"""Classes and functions as a config names them: `module:Name`, or `module:Name(argument=value)`."""

import ast
from typing import NamedTuple

from podrl.mistakes import ConfigError, check


class WrapperCall(NamedTuple):
    """What a config says of one wrapper or encoder.

    Attributes:
        module: Where it is.
        name: The class or function.
        arguments: Its arguments by name, each as it was written.
    """

    module: str
    name: str
    arguments: dict[str, str]


def parse_wrapper(key: str, text: str, like: str = "gymnasium.wrappers:FlattenObservation") -> WrapperCall:
    """Parses an entry of `env.wrappers`, or `network.encoder`; `key` and the example `like` are for messages.

    Raises:
        ConfigError: if it is of no such form.
    """
    path, opening, inside = text.partition("(")
    module, _, name = path.rpartition(":")
    check(
        bool(module and name),
        f"{key}: {text!r} must be 'module:Name', such as {like!r}, or 'module:Name(argument=value)'.",
    )
    source = f"_({inside}" if opening else "_()"
    try:
        call = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError):
        call = None
    is_call = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
    if not isinstance(call, ast.Call) or not is_call or any(keyword.arg is None for keyword in call.keywords):
        raise ConfigError(f"{key}: {text!r} cannot be read; write arguments as in '{path}(size=4, kind=\"x\")'.")
    given = {keyword.arg: ast.get_source_segment(source, keyword.value) for keyword in call.keywords}
    return WrapperCall(module, name, {str(name): str(value) for name, value in given.items()})
