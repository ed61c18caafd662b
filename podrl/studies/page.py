"""The HTML pages of reports: each needs nothing beside it, neither network nor other files."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from podrl.config.programs import shell_command
from podrl.studies.summary import RunRecord

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.answer { background: #f3f6fa; border-left: 4px solid #4c72b0; padding: .6rem 1.2rem; }
.failed { background: #fdf1f0; border-left: 4px solid #c44e52; padding: .6rem 1.2rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption, .note { color: #555; font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e3e3e3; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #999; }
pre, code { background: #f5f5f5; font-size: .85rem; } pre { padding: .8rem; white-space: pre-wrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { color: #555; } dd { margin: 0; }
"""
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<p class="note">$subtitle</p>
<div class="answer">$answer</div>
$failed
$found
<h2>What was run</h2>
<dl>$facts</dl>
<h2>To reproduce it</h2>
<p>With podrl at that commit, or of that version, and with those libraries:</p>
<pre>$command</pre>
<p>The same command with the same folder continues where it was stopped, and does again only what is missing.</p>
</body>
</html>
""")


def fill_page(
    manifest: Mapping[str, Any],
    records: Sequence[RunRecord],
    *,
    title: str,
    subtitle: str,
    answer: Iterable[str],
    found: str,
    facts: Mapping[str, str],
) -> str:
    """Returns a page.

    Args:
        manifest: That of the study.
        records: Its runs.
        title: What the page is about.
        subtitle: What was run, and when.
        answer: What was found, in a few sentences.
        found: Figures and tables, in HTML.
        facts: What was run, beside when and where.
    """
    starts = manifest["starts"]
    return _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        subtitle=escape(subtitle),
        answer=wrap_each("p", answer),
        failed=_list_failures(records, manifest["invalid"]),
        found=found,
        facts=define_terms(dict(facts) | _describe_starts(starts)),
        command=escape(shell_command(starts[0]["argv"])),
    )


def _list_failures(records: Sequence[RunRecord], invalid: Sequence[Mapping[str, str]]) -> str:
    """What is not complete, and why; empty if all runs are."""
    items = []
    for record in records:
        facts, word = record.status.facts, record.status.word
        why = f", exit code {facts['exit_code']}: {facts['text']}" if word == "failed" else ""
        items += [f"{record.trial.name}: {word}{why}"] if word != "complete" else []
    items += ["{name}: left out: {reason}".format(**each) for each in invalid]
    return f'<h2>What is missing</h2><div class="failed"><ul>{wrap_each("li", items)}</ul></div>' if items else ""


def embed(name: str, image: bytes, caption: str) -> str:
    """A figure with its picture inside, and a caption, which may have tags."""
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return f'<figure><img alt="{name}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def tabulate(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of these rows, which have the same columns; those that all leave empty are left out."""
    columns = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    body = "".join(f"<tr>{wrap_each('td', (row[name] for name in columns))}</tr>" for row in rows)
    return f"<table><thead><tr>{wrap_each('th', columns)}</tr></thead><tbody>{body}</tbody></table>"


def wrap_each(tag: str, texts: Iterable[str]) -> str:
    """The texts, each in a tag of its own."""
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _describe_starts(starts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """When, where and with what a study was started, for people; `starts` are those of the manifest."""
    names = ("started", "host", "processor", "cores", "load_average", "platform", "commit", "python", "versions")
    found = {name: dict.fromkeys(_show(start[name]) for start in starts) for name in names}
    return {name.replace("_", " "): "; ".join(texts) for name, texts in found.items()}


def define_terms(facts: Mapping[str, str]) -> str:
    """The facts as terms and their descriptions."""
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())


def _show(value: Any) -> str:
    """A fact of a start: `jax 0.10.2, numpy 2.3.1`, `0.6`, `2`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return f"{value:.1f}" if isinstance(value, float) else str(value)
