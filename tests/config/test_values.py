"""The grammar of values on the command line."""

from typing import Any, Literal

import pytest

from podrl.config.type_hints import hint_of
from podrl.config.values import read, read_items


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        # Without a type.
        ("false", Any, False),
        ("True", Any, True),
        ("None", Any, None),
        ("null", Any, None),
        ("'none'", Any, "none"),
        ("12", Any, 12),
        ("-0.5", Any, -0.5),
        ("1e3", Any, 1000.0),
        ("007", Any, "007"),
        ("1,", Any, (1,)),
        ("0x10", Any, 16),
        ("1e-3, .5", Any, (0.001, 0.5)),
        ("1-2", Any, "1-2"),
        ("-" * 200_000 + "1", Any, "-" * 200_000 + "1"),
        ("1" + "-" * 200_000 + "1", Any, "1" + "-" * 200_000 + "1"),
        ("1,2", Any, (1, 2)),
        ("a,b", Any, "a,b"),
        ("Pong-v5", Any, "Pong-v5"),
        ("it's", Any, "it's"),
        ("", Any, ""),
        ("[[0, 1], [1, 0]]", Any, [[0, 1], [1, 0]]),
        ("(a, 'b, c', None, true)", Any, ("a", "b, c", None, True)),
        ("{lanes: 3, 'kinds': [a, b], in: {x: None}}", Any, {"lanes": 3, "kinds": ["a", "b"], "in": {"x": None}}),
        ('{"a": null, "b": [true, 1.5]}', Any, {"a": None, "b": [True, 1.5]}),
        # With one.
        ("0", bool, False),
        ("FALSE", bool, False),
        ("1e6", int, 1_000_000),
        ("12345678901234567890", int, 12345678901234567890),
        ("3", float, 3.0),
        ("false", str, "false"),
        ("[1,2]", str, "[1,2]"),
        ("4", str | None, "4"),
        ("None", str | None, None),
        ("none", str | None, "none"),
        ("null", str | None, None),
        ("'null'", str | None, "null"),
        ("[null, a]", list[str | None], [None, "a"]),
        ("none", int | None, None),
        ("64", tuple[int, ...], (64,)),
        ("64, 32", tuple[int, ...], (64, 32)),
        ("[64, 32]", tuple[int, ...], (64, 32)),
        ("()", tuple[int, ...], ()),
        ("", tuple[int, ...], ()),
        ("", tuple[str, ...], ()),
        ("image", tuple[str, ...], ("image",)),
        ("(image, direction)", tuple[str, ...], ("image", "direction")),
        ("gymnasium.wrappers:FlattenObservation", tuple[str, ...], ("gymnasium.wrappers:FlattenObservation",)),
        ("kernel: -, model", tuple[str, ...], ("kernel: -, model",)),
        ("[SF, FG]", list[str], ["SF", "FG"]),
        ("3,4", list, [3, 4]),
        ("3,4", list[int] | None, [3, 4]),
        ("{a: false, b: 1}", dict[str, str], {"a": "false", "b": "1"}),
        ("hard", Literal["easy", "hard"], "hard"),
        ("3", int | str, 3),
        ("x", int | str, "x"),
        # With that of a default.
        ("9.81", hint_of(10, is_signature=True), 9.81),
        ("10", hint_of(10, is_signature=True), 10),
        ("1.0", hint_of(10, is_signature=True), 1.0),
        ("1e2", hint_of(10, is_signature=True), 100.0),
        ("2", hint_of(10.0, is_signature=True), 2.0),
        ("None", hint_of(10.0, is_signature=True), None),
        ("1.0", int | float, 1.0),
        ("1", float | int, 1),
        ("1e2", int | None, 100),
        ("(1, 2.0)", tuple[int | float, ...], (1, 2.0)),
        ("None", hint_of("4x4", is_signature=True), None),
        ("false", hint_of(True, is_signature=True), False),
        ("(1, 2)", hint_of([0], is_signature=True), [1, 2]),
        ("false", hint_of(None, is_signature=True), False),
    ],
)
def test_a_value_is_what_it_looks_like(text, hint, value):
    found = read(text, hint)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "hint", "complaint"),
    [
        ("none", Any, "may be None or the text"),
        ("[1, [2]", Any, "']' is missing"),
        ("[1] 2", Any, "what is '2' after its end"),
        ("{a}", Any, "entries of a dictionary are name: value"),
        ("[it's]", Any, "quotes around a text"),
        ("maybe", bool, "is neither true nor false"),
        ("flase", hint_of(False, is_signature=True), "is neither true nor false"),
        ("1.5", int, "is not a whole number"),
        ("nan", float, "is not a number"),
        ("x", hint_of(3, is_signature=True), "is not a number"),
        ("None", str, "is not a text: put it in quotes"),
        ("null", str, "is not a text: put it in quotes"),
        ("'\\x'", str, "a backslash in it is written twice"),
        ("'a\nb'", Any, "a text in quotes is in one line"),
        ("{'\\N{x}': 1}", Any, "a backslash in it is written twice"),
        ("[" * 3000, Any, "is nested too deeply"),
        ("{a: " * 3000, dict, "is nested too deeply"),
        ("(1, x)", tuple[int, ...], "is not a number"),
        ("3", list[int], "is not a list"),
        ("3,x", list[int], "is not a number"),
        ("{a: 1}", int, "is not a number"),
        ("3", dict, "is not a dictionary, such as"),
        ("easier", Literal["easy", "hard"], "is not 'easy' or 'hard'"),
    ],
)
def test_what_cannot_be_read_is_refused(text, hint, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        read(text, hint)
    assert "\n" not in str(caught.value)


def test_entries_of_a_dictionary_stay_as_they_were_typed():
    assert read_items("{a: none, b: [1, {c: x}], 'd e': x y}") == {"a": "none", "b": "[1, {c: x}]", "d e": "x y"}
    with pytest.raises(ValueError, match="is not a dictionary"):
        read_items("3")
    with pytest.raises(ValueError, match="is nested too deeply"):
        read_items("{a: " * 3000)
