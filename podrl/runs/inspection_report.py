"""Prints the results of `podrl.runs.inspection`: a list of checkpoints, the facts of one, and its arrays."""

from collections.abc import Iterator, Mapping, Sequence
import math
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from podrl.config.units import describe_bytes
from podrl.runs.inspection import Details, Entry
from podrl.runtime.tables import make_table


def count_elements(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Returns the number of elements in all these arrays."""
    return sum(math.prod(shape.shape) for shape in shapes.values())


def count_bytes(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Returns the size of these arrays in memory."""
    return sum(math.prod(shape.shape) * shape.dtype.itemsize for shape in shapes.values())


def show_list(console: Console, entries: Sequence[Entry], leftovers: Sequence[str]) -> None:
    """Prints the list of checkpoints; tables are Markdown if the console is no terminal."""
    console.print(make_list(entries, plain=not console.is_terminal))
    if leftovers:
        console.print(f"Not counted, since half-written or put aside as damaged: {', '.join(leftovers)}")


def show_details(console: Console, details: Details) -> None:
    """Prints the content of one checkpoint."""
    plain = not console.is_terminal
    console.print(Text(f"\ncheckpoint {details.step}", "bold"))
    for label, value in facts(details):
        console.print(Text("").join((Text(f"  {label:<10}", style="dim"), Text(value))), soft_wrap=True)
    console.print(make_arrays(details, plain=plain))
    console.print(totals(details), soft_wrap=True)


def make_list(entries: Sequence[Entry], *, plain: bool) -> Table:
    """Makes a table with a row per checkpoint."""
    headings = ("update", "env steps", "return", "size on disk", "kept as")
    table = make_table(headings, plain=plain, texts=headings[-1:], folds=True)
    for entry in entries:
        steps = "-" if entry.env_steps is None else f"{entry.env_steps:,}"
        table.add_row(
            f"{entry.step:,}",
            steps,
            _return(entry.episode_return),
            describe_bytes(entry.size_bytes, 1),
            ", ".join(entry.reasons) or "-",
        )
    return table


def facts(details: Details) -> Iterator[tuple[str, str]]:
    """Yields the checkpoint's facts, each as a label and a text."""
    config, manifest, counters = details.config, details.manifest, details.counters
    agent, env, network = (config.get(section, {}) for section in ("agent", "env", "network"))
    versions = manifest.get("versions", {})
    yield "updates", f"{counters.learner_steps:,}"
    yield "env steps", f"{counters.env_steps:,}"
    yield "frames", f"{counters.frames:,}"
    yield "return", f"{_return(details.episode_return)} (mean of the newest {details.num_episodes:,} episodes)"
    yield "run", f"{config.get('name', '-')} on {env.get('id', '-')} ({env.get('source', '-')}), {_seed(config)}"
    yield "agent", str(agent.get("name", "-"))
    yield "network", _settings(network) or "-"
    yield "commit", str(manifest.get("commit") or "-")
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "-"
    yield "made", f"{manifest.get('started', '-')} (start of the run), {_devices(manifest)}"
    yield "arrays", _hashes(details.num_checked)
    yield from _replay(details)
    if not details.is_complete:
        yield "", "Config and manifest are those of the folder: the checkpoint was made before podrl saved them in it."


def make_arrays(details: Details, *, plain: bool) -> Table:
    """Makes a table with a row per array of the learner's state."""
    headings = ("array", "dtype", "shape", "elements", "bytes")
    table = make_table(headings, plain=plain, texts=headings[:3], folds=True)
    for path, shape in details.shapes.items():
        elements = math.prod(shape.shape)
        dims = " x ".join(map(str, shape.shape)) or "scalar"
        style = None if path.startswith("params/") else "dim"
        table.add_row(
            Text(path), str(shape.dtype), dims, f"{elements:,}", f"{elements * shape.dtype.itemsize:,}", style=style
        )
    return table


def totals(details: Details) -> str:
    """Returns the numbers and sizes of the parameters and of the whole state."""
    params = details.param_shapes
    of_params, of_state = (describe_bytes(count_bytes(shapes), 1) for shapes in (params, details.shapes))
    return (
        f"{count_elements(params):,} parameters in {len(params)} arrays, {of_params}; the whole state: "
        f"{len(details.shapes)} arrays, {of_state}."
    )


def _replay(details: Details) -> Iterator[tuple[str, str]]:
    """Yields what there is to say of the replay; nothing of a run without one."""
    replay = details.replay
    if replay is None:
        if details.had_replay:
            yield "replay", "none any more: only the newest checkpoint keeps it"
        return
    size = describe_bytes(count_bytes(replay.shapes), 1)
    if replay.num_updates is None:
        yield "replay", f"{size}, all {len(replay.shapes)} arrays match their hashes; a ring that is not known"
        return
    yield "replay", f"{size}, all {len(replay.shapes)} arrays match their hashes"
    yield "", f"{replay.num_updates:,} updates of {replay.num_envs:,} environments, {replay.num_steps:,} steps"
    if replay.ages.size:
        yield "", f"ages: {_spread(replay.ages)} updates since the parameters that acted"
    if replay.returns.size:
        yield "", f"returns: {_spread(replay.returns)}, of {replay.returns.size:,} whole episodes"
    if replay.num_starts:
        share = replay.priorities.size / replay.num_starts
        yield "", f"starts: {replay.priorities.size:,} that can be drawn, {share:.0%} of all"
    if (priorities := replay.priorities).size:
        yield "", f"priorities: {_spread(priorities)}; draws repeat as if of {_effective(priorities):,.0f} equal starts"


def _spread(values: np.ndarray) -> str:
    """Returns `1 to 9, half of them 3 to 5, mean 4`."""
    low, quarter, rest, high = np.quantile(values, [0, 0.25, 0.75, 1])
    return f"{low:.4g} to {high:.4g}, half of them {quarter:.4g} to {rest:.4g}, mean {np.mean(values):.4g}"


def _effective(priorities: np.ndarray) -> float:
    """Returns the number of equally likely starts whose draws would repeat as often as those by priority."""
    shares = priorities.astype(np.float64) / np.sum(priorities, dtype=np.float64)
    return float(1 / np.sum(shares**2))


def _return(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _hashes(num_checked: int | None) -> str:
    if num_checked is None:
        return "not checked: the checkpoint was made before podrl saved hashes with them"
    return f"all {num_checked} match the hashes that were saved with them"


def _seed(config: Mapping[str, Any]) -> str:
    return f"seed {config.get('seed', '-')}"


def _settings(section: Mapping[str, Any]) -> str:
    """Returns `mlp, width 1, hidden_sizes [64, 64]`."""
    named = [f"{name} {value}" for name, value in section.items() if name != "encoder"]
    return ", ".join([str(section.get("encoder", "-")), *named]) if section else ""


def _devices(manifest: Mapping[str, Any]) -> str:
    devices = manifest.get("devices", [])
    return f"{len(devices)} x {manifest.get('device_kind', '-')}" if devices else "-"
