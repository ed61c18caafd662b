"""docs/config.md: every key of a config, its default and what it takes, from the table that checks are made from.

python docs/make_config_reference.py > docs/config.md
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from podrl.agents.parts.loading import agent_names, load_agent
from podrl.config.key_facts import all_sections, section_facts
from podrl.config.ranges import LEAST, OPTIONS

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
    agents = [("agent.", load_agent(name).AgentConfig) for name in agent_names()]
    parts = [_INTRO, *(_table(prefix, section) for prefix, section in (*all_sections(), *agents))]
    options = [f"| `env.options.{name}` | {values.describe()} |" for name, values in OPTIONS.items()]
    parts.append("\n".join(["## Options of environments", "", "| key | takes |", "| --- | --- |", *options, ""]))
    return "\n".join(parts)


def _table(prefix: str, section: type) -> str:
    """A heading and a row for each key of a section."""
    title = f"`{prefix.rstrip('.') or 'config'}`"
    if prefix == "agent.":
        title += f" with `agent.name={section().name}`"
    header = [f"## {title}", "", "| key | default | takes | means |", "| --- | --- | --- | --- |"]
    rows = []
    for key, default, takes, meaning in section_facts(prefix, section):
        escaped = meaning.replace("|", "\\|")
        rows.append(f"| `{key}` | {default} | {takes} | {escaped} |")
    return "\n".join([*header, *rows, ""])


if __name__ == "__main__":
    sys.stdout.write(reference())
