"""Type hints as far as the grammar of `podrl.config.values` knows them."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
import types
import typing
from typing import Any


def hint_of(value: Any, *, is_signature: bool = False) -> Any:
    """Returns the type hint that a default implies; `Any` for None and for objects.

    Args:
        value: the default.
        is_signature: whether it is the default of an argument without annotation, which says less: None may be allowed
            as well, and decimals although the default is a whole number. A default of 10.0 implies that whole numbers
            are meant as floats, too.
    """
    kind = type(value)
    if kind not in (bool, int, float, str, list, tuple, dict):
        return Any
    if not is_signature:
        return kind
    return int | float | None if kind is int else kind | None


def or_none(hint: Any) -> Any:
    """Returns the hint with None added; `Any` if `hint` is no type hint."""
    try:
        return hint | None
    except TypeError:
        return Any


def members(hint: Any) -> list[Any]:
    """Returns the types of a union, or the one type; `Any` for types not known here."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [member for each in typing.get_args(hint) for member in members(each)]
    if typing.get_origin(hint) is typing.Annotated:
        return members(typing.get_args(hint)[0])
    if hint is None or hint is type(None):
        return [type(None)]
    known = hint in (bool, int, float, str) or origin(hint) in (list, tuple, dict, typing.Literal)
    return [hint] if known else [Any]


def origin(hint: Any) -> Any:
    """Returns the container type of a hint: `list` for `list[int]` and `Sequence[int]`; a plain type is its own."""
    kind = typing.get_origin(hint) or hint
    if kind in (Sequence, Iterable):
        return list
    return dict if kind in (Mapping, MutableMapping) else kind


def entry_hints(hint: Any, *, of_dict: bool = False) -> list[Any]:
    """Returns the hints of a container's entries; the last one applies to all that follow."""
    for kind in members(hint):
        arguments = [each for each in typing.get_args(kind) if each is not Ellipsis]
        if arguments and (origin(kind) is dict) == of_dict and origin(kind) is not typing.Literal:
            return arguments
    return [Any]


def takes(kinds: Sequence[Any], kind: type) -> bool:
    """Returns whether one of the types is `kind`, with or without types of its entries."""
    return any(origin(each) is kind for each in kinds)


def name(kinds: Sequence[Any]) -> str:
    """Returns the types in words, for error messages."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "None"}
    names |= {list: "a list", tuple: "a tuple", dict: "a dictionary, such as {name: value}"}
    parts: list[str] = []
    for kind in kinds if float not in kinds else [kind for kind in kinds if kind is not int]:
        literal = origin(kind) is typing.Literal
        parts += map(repr, typing.get_args(kind)) if literal else [names.get(origin(kind), str(kind))]
    return " or ".join(dict.fromkeys(parts))
