"""What each key of a config takes and means, from the dataclasses that check it: for `--help` and docs/config.md."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import inspect
import re
import textwrap
from typing import Any, NamedTuple

from podrl.config.config import Config, EnvConfig
from podrl.config.config_dict import default_sections
from podrl.config.ranges import values_of

_NARROWEST = 60  # Columns.
_NO_BREAK = "\u00a0"  # Ranges stay on a line.


class KeyFacts(NamedTuple):
    """One key: its name from the root, its default as text, which values it takes, and what it means."""

    key: str
    default: str
    takes: str
    meaning: str


def section_facts(prefix: str, section: type, default: Any = None) -> Iterator[KeyFacts]:
    """Yields the keys of a section, those of its own sections included.

    Args:
        prefix: Begins each key, such as `actors.`.
        section: Its dataclass.
        default: An instance with the defaults; by default those of the fields.
    """
    meanings = _meanings(section)
    for field in dataclasses.fields(section):
        if section is Config and (field.name == "agent" or dataclasses.is_dataclass(field.type)):
            continue
        kind: Any = field.type
        if section is not Config and isinstance(kind, type) and dataclasses.is_dataclass(kind):  # An agent's optimizer.
            make_default: Any = field.default_factory
            yield from section_facts(f"{prefix}{field.name}.", kind, default=make_default())
            continue
        values = values_of(field)
        takes = values.describe() if values else "true or false" if field.type is bool else "the environment's own"
        yield KeyFacts(f"{prefix}{field.name}", _default(section, field, default), takes, meanings.get(field.name, ""))


def all_sections() -> Sequence[tuple[str, type]]:
    """Returns the prefix and the dataclass of each section, except an agent's."""
    hints = Config.__annotations__
    return [("", Config), *((f"{name}.", hints[name]) for name in ("env", *default_sections()))]


def describe_values(values: Mapping[str, str], agent_type: type | None, width: int) -> str:
    """Returns a paragraph for each value of a config: what it is, what else its key takes, and what it means.

    Args:
        values: The values as text, by key.
        agent_type: The dataclass of the agent's section; None if it is not known.
        width: Columns of the terminal.
    """
    sections = [*all_sections(), *([("agent.", agent_type)] if agent_type else [])]
    facts = {each.key: each for prefix, section in sections for each in section_facts(prefix, section)}
    lines = []
    for key, value in values.items():
        lines.append(f"  {key} = {value}")
        if key in facts:
            takes = re.sub(r"(?<=\[)[^])]*", lambda found: found[0].replace(" ", _NO_BREAK), facts[key].takes)
            about = f"{facts[key].meaning[:1].upper()}{facts[key].meaning[1:]} Takes {takes}."
            lines += textwrap.wrap(
                about,
                max(width, _NARROWEST) - 1,
                initial_indent=" " * 6,
                subsequent_indent=" " * 6,
                break_on_hyphens=False,
            )
    return "".join(f"{line}\n" for line in lines).replace(_NO_BREAK, " ")


def _default(section: type, field: dataclasses.Field, default: Any) -> str:
    if default is not None:
        return f"`{_plain(getattr(default, field.name))}`"
    if field.default is not dataclasses.MISSING:
        return f"`{_plain(field.default)}`"
    return "`{}`" if section is EnvConfig and field.name == "options" else "none"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}" if value != "" else "''"


def _meanings(section: type) -> dict[str, str]:
    """Returns what the docstring's `Attributes:` say of each field, in one line each."""
    text = inspect.cleandoc(section.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.M)
    return {name: " ".join(meaning.split()) for name, meaning in entries}
