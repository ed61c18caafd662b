"""Values as people type them: one grammar for config keys and for options of environments.

    true, false           in any case
    None, null
    12, 1e6, 1_000, -0.5  numbers; a key that takes whole numbers takes 1e6 too
    [1, 2], (1, 2)        lists and tuples; several entries need no brackets
    {lanes: 3, kind: x}   dictionaries
    'text', "text", text  quotes are needed only for text that would be read as another type

A type hint says what a value has to be: the hint of a config key, or of an argument of the environment's constructor.
With the hint `str`, `false` is a text; without any hint (`Any`) it is a bool.
"""

import ast
from collections.abc import Iterator
import re
import typing
from typing import Any, cast

from podrl.config.marks import Typed
from podrl.config.type_hints import entry_hints, members, name, origin, takes
from podrl.config.words import is_none, scalar

_CLOSING = {"[": "]", "(": ")", "{": "}"}
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_WORD = re.compile(r"[^,\[\](){}'\"]+")
_KEY = re.compile(r"[^,:\[\](){}'\"]+")
_DEEPEST = 100  # Levels of nested lists.


def read(text: str, hint: Any = Any) -> Any:
    """Returns the value that `text` stands for.

    Args:
        text: the text as typed.
        hint: the type expected: `Any`, `bool`, `int`, `float`, `str`, `list`, `tuple`, `dict`, with or without types of
            their entries, `Literal`, or a union of these; any other hint is treated as `Any`.

    Raises:
        ValueError: if the text is no such value; the message follows "KEY='TEXT' ".
    """
    text, kinds = text.strip(), members(hint)
    container = text[:1] in _CLOSING and any(origin(kind) in (list, tuple, dict, Any) for kind in kinds)
    if container or _QUOTED.fullmatch(text) or Any in kinds:
        return _Reader(text).whole(hint)
    is_bare = takes(kinds, tuple) or ("," in text and takes(kinds, list))
    if str not in kinds and is_bare and not is_none(text, kinds):
        return () if not text else _bare(text, hint)
    return scalar(text, hint)


def read_items(text: str) -> dict[str, Typed]:
    """Returns the entries of a dictionary, each as it was typed.

    Raises:
        ValueError: if the text is no dictionary; the message is as in `read`.
    """
    return _Reader(text.strip(), finds_only=True).items()


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str, *, finds_only: bool = False):
        """Starts at the first character; `finds_only` keeps words unread, to find where each entry ends."""
        self._text, self._at, self._depth, self._finds_only = text, 0, 0, finds_only

    def whole(self, hint: Any) -> Any:
        """Returns the value of the whole text."""
        if self._text[:1] not in (*_CLOSING, "'", '"'):
            return scalar(self._text, hint)  # A text may hold commas and brackets.
        value = self._value(hint)
        self._end()
        return value

    def items(self) -> dict[str, Typed]:
        """Returns the entries of the dictionary that the whole text is."""
        if self._text[:1] != "{":
            raise ValueError("is not a dictionary, such as {name: value}.")
        found: dict[str, Typed] = {}
        for _ in self._entries():
            key, start = self._key(), self._at
            self._value(Any)
            found[key] = Typed(self._text[start : self._at].strip())
        self._end()
        return found

    def _value(self, hint: Any) -> Any:
        self._skip()
        if match := _QUOTED.match(self._text, self._at):
            self._at = match.end()
            return _fit(_unquoted(match.group()), hint)
        opening = self._text[self._at : self._at + 1]
        if opening in _CLOSING:
            return _fit(self._dict(hint) if opening == "{" else self._list(hint), hint)
        match = _WORD.match(self._text, self._at)
        if not match or not match.group().strip():
            raise ValueError(f"cannot be read from {self._text[self._at :][:20]!r} on.")
        self._at = match.end()
        return match.group() if self._finds_only else scalar(match.group().strip(), hint)

    def _list(self, hint: Any) -> list[Any] | tuple[Any, ...]:
        is_tuple, values = self._text[self._at] == "(", []
        hints = entry_hints(hint)
        for index in self._entries():
            values.append(self._value(hints[min(index, len(hints) - 1)]))
        return tuple(values) if is_tuple else values

    def _dict(self, hint: Any) -> dict[str, Any]:
        values, hints = {}, entry_hints(hint, of_dict=True)
        for _ in self._entries():
            key = self._key()
            values[key] = self._value(hints[-1])
        return values

    def _entries(self) -> Iterator[int]:
        """Yields the index of each entry of the container that opens here; the caller reads the entry."""
        closing, index = _CLOSING[self._text[self._at]], 0
        self._at, self._depth = self._at + 1, self._depth + 1
        if self._depth > _DEEPEST:
            raise ValueError("is nested too deeply.")
        while not self._found(closing):
            yield index
            index += 1
            if not self._found(","):
                if not self._found(closing):
                    raise ValueError(f"cannot be read: {closing!r} is missing, or quotes around a text.")
                break
        self._depth -= 1

    def _key(self) -> str:
        self._skip()
        if match := _QUOTED.match(self._text, self._at):
            key = _unquoted(match.group())
        elif match := _KEY.match(self._text, self._at):
            key = match.group().strip()
        self._at = match.end() if match else self._at
        if not match or not self._found(":"):
            raise ValueError("cannot be read: entries of a dictionary are name: value.")
        return key

    def _found(self, mark: str) -> bool:
        self._skip()
        found = self._text.startswith(mark, self._at)
        self._at += found
        return found

    def _skip(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1

    def _end(self) -> None:
        self._skip()
        if self._at < len(self._text):
            raise ValueError(f"cannot be read: what is {self._text[self._at :][:20]!r} after its end?")


def _bare(text: str, hint: Any) -> tuple[Any, ...] | list[Any]:
    """Returns a tuple or list written without brackets, of one entry or several; a text is one entry."""
    if str in members(entry_hints(hint)[0]):
        return (scalar(text, entry_hints(hint)[0]),)
    return cast("tuple[Any, ...] | list[Any]", _fit(tuple(_Reader(f"({text})").whole(hint)), hint))


def _fit(value: Any, hint: Any) -> Any:
    """Returns a quoted text or a container if the hint expects it; a list may stand for a tuple, and vice versa."""
    kinds = members(hint)
    origins = [origin(kind) for kind in kinds]
    choices = [choice for kind in kinds if origin(kind) is typing.Literal for choice in typing.get_args(kind)]
    if Any in kinds or type(value) in origins or value in choices:
        return value
    if isinstance(value, list | tuple) and (list in origins or tuple in origins):
        return list(value) if list in origins else tuple(value)
    raise ValueError(f"is not {name(kinds)}.")


def _unquoted(quoted: str) -> str:
    """Returns the text inside quotes."""
    try:
        return str(ast.literal_eval(quoted))
    except (SyntaxError, ValueError):
        raise ValueError(
            "cannot be read: a text in quotes is in one line, and a backslash in it is written twice."
        ) from None
