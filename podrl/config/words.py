"""Words without quotes as values of config keys: numbers, switches, None and texts; see `podrl.config.values`."""

import ast
from collections.abc import Sequence
import math
import re
import typing
from typing import Any

from podrl.config.type_hints import members, name, origin

_NUMBER = re.compile(r"\s*[+-]?\.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?\s*")
_LAST = (float, str, str)  # Order in which a union's types read a word: whole numbers first, texts last.
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def scalar(word: str, hint: Any) -> Any:
    """Returns the value of a word: the first of the hint's types that accepts it decides, texts last.

    Raises:
        ValueError: if no type accepts it; the message follows "KEY='TEXT' ".
    """
    kinds = members(hint)
    if Any in kinds:
        return _guess(word)
    if is_none(word, kinds):
        return None
    kinds = sorted((kind for kind in kinds if kind is not type(None)), key=_LAST.count)
    if float in kinds and not _is_whole(word):  # 1.0 and 1e3 are floats where the hint allows floats.
        kinds = [kind for kind in kinds if kind is not int]
    problem = ValueError(f"is not {name(kinds)}.")
    for kind in kinds:
        try:
            return _read_as(word, kind, alone=len(kinds) == 1)
        except ValueError as error:
            problem = error if len(kinds) == 1 else problem
    raise problem


def _guess(word: str) -> Any:
    """Reads a word of unknown type."""
    if word == "none":
        raise ValueError("may be None or the text: write None, or 'none' in quotes.")
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if word in ("None", "null"):
        return None
    if word.lstrip("+-") == "inf":
        return float(word)
    if not all(map(_NUMBER.fullmatch, word.rstrip(", ").split(","))):
        return word
    try:
        found = ast.literal_eval(word)
    except (SyntaxError, ValueError):
        return word
    numbers = found if isinstance(found, tuple) else (found,)
    return found if all(type(number) in (int, float) for number in numbers) else word


def _read_as(word: str, kind: Any, *, alone: bool) -> Any:
    if kind is str:
        if word in ("None", "null"):
            raise ValueError("is not a text: put it in quotes if it is meant as one.")
        return word
    if kind is bool:
        if word.lower() in (_TRUE if alone else _TRUE[:1]):
            return True
        if word.lower() in (_FALSE if alone else _FALSE[:1]):
            return False
        raise ValueError("is neither true nor false.")
    if kind in (int, float):
        return _number(word, kind)
    for choice in typing.get_args(kind) if origin(kind) is typing.Literal else ():
        if str(choice) == word:
            return choice
    raise ValueError(f"is not {name([kind])}.")


def _number(word: str, kind: type) -> int | float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ValueError("is not a number.")
    if kind is float:
        return number
    if not number.is_integer():
        raise ValueError("is not a whole number.")
    return int(word) if _is_whole(word) else int(number)


def _is_whole(word: str) -> bool:
    """Returns whether a number is written as digits alone."""
    return word.strip().lstrip("+-").replace("_", "").isdigit()


def is_none(word: str, kinds: Sequence[Any]) -> bool:
    """Returns whether a word stands for None where a value has one of these types; `none` may be a text."""
    is_none = word in ("None", "null") or (str not in kinds and word.lower() in ("none", "null"))
    return type(None) in kinds and is_none
