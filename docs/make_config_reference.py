"""docs/config.md: every key of a config, its default and what it takes, from the table that checks are made from.

python docs/make_config_reference.py > docs/config.md
"""

from collections.abc import Iterator
import dataclasses
import inspect
from pathlib import Path
import re
import sys
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl.agents.parts.loading import agent_names, load_agent
from podrl.config.config import Config, EnvConfig
from podrl.config.config_dict import default_sections
from podrl.config.ranges import LEAST, OPTIONS, values_of

_INTRO = f"""# Every key of a config

Made by `python docs/make_config_reference.py > docs/config.md` from the table that values are checked with: not to be
edited.

A config file states what differs from these defaults, and `--config.KEY=VALUE` overrides any key, also one that the
file leaves out.

`[a, b]` are numbers from a to b, `[a, b)` those below b; numbers other than 0 are at least {LEAST:g}. A value outside
is refused in one line before anything starts. Sizes up to 2**31 are bounded by memory: what cannot fit is refused with
the bytes that it would need and those that there are.
"""


def reference() -> str:
    """The whole page."""
    hints = Config.__annotations__
    sections = [("", Config), *((f"{name}.", hints[name]) for name in ("env", *default_sections()))]
    agents = [("agent.", load_agent(name).AgentConfig) for name in agent_names()]
    parts = [_INTRO, *(_table(prefix, section) for prefix, section in (*sections, *agents))]
    options = [f"| `env.options.{name}` | {values.describe()} |" for name, values in OPTIONS.items()]
    parts.append("\n".join(["## Options of environments", "", "| key | takes |", "| --- | --- |", *options, ""]))
    return "\n".join(parts)


def _table(prefix: str, section: type) -> str:
    """A heading and a row for each key of a section."""
    title = f"`{prefix.rstrip('.') or 'config'}`"
    if prefix == "agent.":
        title += f" with `agent.name={section().name}`"
    header = [f"## {title}", "", "| key | default | takes | means |", "| --- | --- | --- | --- |"]
    return "\n".join([*header, *_rows(prefix, section), ""])


def _rows(prefix: str, section: type, default: Any = None) -> Iterator[str]:
    meanings = _meanings(section)
    for field in dataclasses.fields(section):
        is_section = section is Config and (field.name == "agent" or dataclasses.is_dataclass(field.type))
        if is_section:
            continue
        kind: Any = field.type
        if section is not Config and isinstance(kind, type) and dataclasses.is_dataclass(kind):  # An agent's optimizer.
            make_default: Any = field.default_factory
            yield from _rows(f"{prefix}{field.name}.", kind, default=make_default())
            continue
        values = values_of(field)
        takes = values.describe() if values else "true or false" if field.type is bool else "the environment's own"
        meaning = meanings[field.name].replace("|", "\\|")
        yield f"| `{prefix}{field.name}` | {_default(section, field, default)} | {takes} | {meaning} |"


def _default(section: type, field: dataclasses.Field, default: Any) -> str:
    if default is not None:
        return f"`{_plain(getattr(default, field.name))}`"
    if field.default is not dataclasses.MISSING:
        return f"`{_plain(field.default)}`"
    return "`{}`" if section is EnvConfig and field.name == "options" else "none"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}" if value != "" else "''"


def _meanings(section: type) -> dict[str, str]:
    """What the docstring's `Attributes:` say of each field, in one line each."""
    text = inspect.cleandoc(section.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.M)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


if __name__ == "__main__":
    sys.stdout.write(reference())
