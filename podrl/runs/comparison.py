"""Finds where two runs first differ, and in what: settings, software, data or parameters.

Every row of metrics has a hash of the batch that its update learned from and of the parameters that it made
(`podrl.ops.fingerprint`). Within an update the batch comes first. So if data differ before parameters, environments or
actors made them differently; if parameters differ although the batch is the same, they were learned differently.
"""

import array
from collections.abc import Mapping, Sequence
import dataclasses
import itertools
from typing import Any

import numpy as np

from podrl.config.config import ConfigError, check
from podrl.config.config_dict import differences
from podrl.runs.records import CONFIG_FOLDERS, Record

CHAIN, PARAMS, BATCH = "fingerprint", "fingerprint/params", "fingerprint/batch"
# Keys of a manifest that differ at every start and explain nothing.
_PER_START = ("argv", "started", "hosts", "run_id", CONFIG_FOLDERS)
_KINDS = {"seed": "seed", "init_from": "start"} | dict.fromkeys(
    ("commit", "python", "versions", "xla_flags"), "software"
)
_MOST_ITEMS = 4  # Most items of a list that are shown.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting in which two runs differ.

    Attributes:
        kind: `config`, `seed`, `start` (the weights that it began with), `software` or `hardware`.
        key: the setting's name there.
        a: value of run A; with `, then` if it changed when the run was resumed.
        b: value of run B, likewise.
    """

    kind: str
    key: str
    a: str
    b: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How long two runs agree in one fingerprint, over the updates that have a row in both.

    Attributes:
        until: the last such update before they differ; 0 if they never agree.
        first: the first at which they differ; None if they never do.
    """

    until: int
    first: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        settings: the settings that differ.
        updates: the updates that have a row in both, increasing.
        batch: agreement in the data.
        params: agreement in the parameters.
        chain: agreement in the chained fingerprints; None if their links are at different updates.
        boundary: the first update after which only one run opens its environments anew; None if there is none.
        newest: the last update that has a row in A, and in B.
    """

    settings: Sequence[Setting]
    updates: Sequence[int]
    batch: Agreement
    params: Agreement
    chain: Agreement | None
    boundary: int | None = None
    newest: tuple[int, int] = (0, 0)

    @property
    def is_equal(self) -> bool:
        """Whether no fingerprint differs."""
        return not any(part and part.first for part in (self.batch, self.params, self.chain))


def compare_runs(a: Record, b: Record) -> Comparison:
    """Compares two runs over the updates that have a row in both.

    Raises:
        ConfigError: if there are none, or a run has no fingerprints of its batches.
    """
    hashes_a, hashes_b = (_read_hashes(run) for run in (a, b))
    common, at_a, at_b = np.intersect1d(hashes_a["update"], hashes_b["update"], return_indices=True)
    updates: list[int] = common.tolist()
    check(
        bool(updates),
        f"{a.folder} and {b.folder} have no row of the same update: they have one every {_interval(a)} and "
        f"{_interval(b)} updates.",
    )

    def agreement(key: str) -> Agreement:
        differ = np.flatnonzero(hashes_a[key][at_a] != hashes_b[key][at_b])
        agreed = int(differ[0]) if differ.size else len(updates)
        return Agreement(
            until=updates[agreed - 1] if agreed else 0, first=updates[agreed] if agreed < len(updates) else None
        )

    return Comparison(
        settings=_settings(a, b),
        updates=updates,
        batch=agreement(BATCH),
        params=agreement(PARAMS),
        chain=agreement(CHAIN) if _interval(a) == _interval(b) else None,
        boundary=_boundary(a, b),
        newest=(int(hashes_a["update"][-1]), int(hashes_b["update"][-1])),
    )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Returns, as texts, what could change bits and differs between the manifests of two starts of one run."""
    found = differences(_facts(before), _facts(after))
    known = _facts(before)  # A fact that an earlier podrl did not record yet is no change.
    return [f"{key} was {old}, is {new}" for key, (old, new) in found.items() if key in known and key != "seed"]


def conclusion(comparison: Comparison) -> str:
    """Returns one line: whether the runs are equal and, if not, where to look."""
    batch, params, chain = comparison.batch, comparison.params, comparison.chain
    last = comparison.updates[-1]
    if comparison.is_equal and chain:
        return f"Equal for all {last:,} updates in common."
    if comparison.is_equal:
        return (
            f"Equal at all {len(comparison.updates):,} updates with a row in both, up to update {last:,}; chains of "
            "another log.every_updates cannot be compared."
        )
    firsts = [part.first for part in (batch, params) if part.first]
    if not firsts:
        return (
            f"Data and parameters agree in all rows, but not the chains, from update {chain.first if chain else 0:,} "
            "on: the runs differed at an update that has no row in both now, or one of them resumed from a checkpoint "
            "without a chain, or with another log.every_updates."
        )
    update, until = min(firsts), min(batch.until, params.until)
    where = f"in update {update:,}" if update == until + 1 else f"in updates {until + 1:,} to {update:,}"
    if params.first == update != batch.first:
        return (
            f"Parameters first: they came to differ {where}, where the batch of update {update:,} is still the same. "
            "Look at the update: its settings, kernels, devices."
        )
    if params.first == batch.first and update != until + 1:
        return (
            f"Data and parameters both came to differ {where}: the rows do not tell which first. Repeat both runs with "
            f"log.every_updates=1 up to update {update:,}."
        )
    start = ", or at the parameters that the runs began with" if until == 0 else ""
    found = f"Data first: they came to differ {where}."
    if comparison.boundary is not None and until <= comparison.boundary < update:
        return f"{found} checkpoint.every_updates alone does that."
    return f"{found} Look at environments and actors{start}."


def boundary_note(comparison: Comparison) -> str:
    """Returns a note if the runs' boundaries differ, which alone makes them different; empty otherwise."""
    if comparison.boundary is None:
        return ""
    return (
        f"checkpoint.every_updates differs, and at each of its multiples environments are opened anew: after update "
        f"{comparison.boundary:,} the runs differ for that alone. Give both the same to compare anything else."
    )


def _read_hashes(run: Record) -> dict[str, np.ndarray]:
    """Returns, as columns over the updates that have a row, the update's number and a number for each fingerprint.

    Updates increase. Rows of evaluations have no fingerprints. Of several rows of one update the last counts.
    """
    columns = {name: array.array("q") for name in ("update", CHAIN, PARAMS, BATCH)}
    for row in run.rows.fields("learner_steps", CHAIN, PARAMS, BATCH):
        if CHAIN not in row:
            continue
        if PARAMS not in row or BATCH not in row:
            raise ConfigError(
                f"{run.folder} has rows without {BATCH}: it was made by a podrl from before there were such. Run it "
                "again."
            )
        columns["update"].append(row["learner_steps"])
        for name in (CHAIN, PARAMS, BATCH):
            columns[name].append(hash(row[name]))  # 64 bits, like the text, in a tenth of its memory.
    found = {name: np.frombuffer(column, np.int64) for name, column in columns.items()}
    check(bool(found["update"].size), f"{run.folder} has no row of metrics yet.")
    _, from_the_end = np.unique(found["update"][::-1], return_index=True)
    return {name: column[::-1][from_the_end] for name, column in found.items()}


def _interval(run: Record) -> int:
    return run.config["log"]["every_updates"]


def _boundary(a: Record, b: Record) -> int | None:
    """Returns where boundaries first differ: at the smaller interval. See `podrl.experience.schedule`."""
    every = {run.config.get("checkpoint", {}).get("every_updates", 0) for run in (a, b)}
    exact = all(run.config.get("determinism", "exact") == "exact" for run in (a, b))
    return min(every - {0}) if len(every) > 1 and exact else None


def _settings(a: Record, b: Record) -> list[Setting]:
    """Returns the settings that differ, those of the configs before those of the manifests."""
    found = [
        Setting(kind="config", key=key, a=before, b=after)
        for key, (before, after) in differences(a.config, b.config).items()
        if key != "seed"
    ]
    history = [_history(run) for run in (a, b)]
    for key, (before, after) in differences(*history).items():
        kind = _KINDS.get(key.split(".")[0], "hardware")
        found.append(Setting(kind=kind, key=key, a=before, b=after))
    kinds = ("config", "seed", "start", "software", "hardware")
    return sorted(found, key=lambda setting: kinds.index(setting.kind))


def _history(run: Record) -> dict[str, Any]:
    """Returns the facts of all starts of a run, by name: `x`, or `x, then y` if it changed between two starts."""
    starts = [_facts(manifest) for manifest in run.manifests] or [_facts({"seed": run.config["seed"]})]
    keys = {key for facts in starts for key in facts}
    return {
        key: ", then ".join(value for value, _ in itertools.groupby(facts.get(key, "not there") for facts in starts))
        for key in keys
    }


def _facts(manifest: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns a manifest as texts by dotted names."""
    facts: dict[str, str] = {}
    for name, value in manifest.items():
        if isinstance(value, Mapping):
            facts |= _facts(value, f"{prefix}{name}.")
        elif name not in _PER_START:
            facts[f"{prefix}{name}"] = _shorten(value) if isinstance(value, list) else str(value)
    return facts


def _shorten(items: Sequence[Any]) -> str:
    """Returns a few items, and how many there are."""
    more = [f"... ({len(items)} in all)"] if len(items) > _MOST_ITEMS else []
    return ", ".join([*map(str, items[:_MOST_ITEMS]), *more])
