"""What a sweep has found: a table of its trials, the best configs as files, and pictures."""

from collections.abc import Sequence
from pathlib import Path
import pprint
from typing import Any

from absl import logging
import numpy as np

from podrl.config.config import ConfigError
from podrl.config.config_dict import to_dict
from podrl.runs.records import read_json
from podrl.runtime.tables import encode_table, make_console, print_rows
from podrl.studies.sweep_figures import FoundTrial, draw_history, draw_importance
from podrl.studies.sweep_space import Space
from podrl.studies.sweep_study import Sweep, trial_folder

_BEST = 3  # Configs that are written.
_FILE = '''"""{name}: {objective} {value:.6g}.

{settings}
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
{values}
    )
'''


def collect_trials(study: Any) -> list[FoundTrial]:
    """Returns what became of the trials so far, in their order."""
    return [
        FoundTrial(
            number=each.number,
            state=each.state.name.lower(),
            value=each.value,
            values=each.user_attrs["values"],
            params=each.params,
            curve=each.intermediate_values,
            reason=each.user_attrs.get("reason", ""),
        )
        for each in study.get_trials(deepcopy=False)
        if "values" in each.user_attrs
    ]


def in_order(found: Sequence[FoundTrial], direction: str) -> list[FoundTrial]:
    """Sorts trials: complete ones from the best on, then pruned ones, then others."""
    sign = -1.0 if direction == "maximize" else 1.0
    states = ("complete", "pruned")

    def rank(each: FoundTrial) -> tuple[int, float, int]:
        place = states.index(each.state) if each.state in states else len(states)
        return place, np.inf if each.value is None else sign * each.value, each.number

    return sorted(found, key=rank)


def write_report(study: Any, sweep: Sweep, space: Space, folder: Path) -> None:
    """Writes `trials.csv`, `best-N.py` and the pictures into a sweep's folder, and prints the table."""
    found = in_order(collect_trials(study), sweep.direction)
    keys = list(dict.fromkeys(key for each in found for key in each.values))
    columns = [
        {"trial": each.number, "state": each.state, sweep.objective: each.value, **dict.fromkeys(keys), **each.values}
        for each in found
    ]
    (folder / "trials.csv").write_bytes(encode_table(columns, "csv"))
    complete = [each for each in found if each.state == "complete"]
    for place, each in enumerate(complete[:_BEST], start=1):
        try:
            (folder / f"best-{place}.py").write_text(make_config_file(each, sweep, space, folder))
        except ConfigError as error:
            (folder / f"best-{place}.py").unlink(missing_ok=True)
            logging.warning("No best-%d.py of trial %d: %s", place, each.number, error)
    if complete:
        (folder / "history.png").write_bytes(draw_history(found, sweep))
        if any(each.params for each in found):
            (folder / "importance.png").write_bytes(draw_importance(found, sweep, find_importance(study)))
    show(found, keys, sweep, folder)


def make_config_file(found: FoundTrial, sweep: Sweep, space: Space, folder: Path) -> str:
    """Returns the config of a trial as a file for `--config`, which needs no other file.

    It is that of the trial's run where this folder has it, and else, as a conductor elsewhere ran it, put together.

    Raises:
        ConfigError: If it cannot be read, or the training would now refuse it.
    """
    file = trial_folder(folder, found.number) / "config.json"
    values = read_json(file) if file.exists() else to_dict(space.put_together(found.values))
    settings = "\n".join(f"{key} = {value}" for key, value in found.values.items())
    text = pprint.pformat(values, width=100, sort_dicts=False)
    return _FILE.format(
        name=f"Trial {found.number} of {folder.name}",
        objective=sweep.objective,
        value=found.value,
        settings=settings,
        values="\n".join(f"        {line}" for line in text.splitlines()),
    )


def find_importance(study: Any) -> dict[str, float]:
    """Returns the share of each parameter in the differences between trials, by Optuna; empty with too few of them.

    Source: Watanabe et al. 2023, arXiv:2304.10255 (PED-ANOVA).
    """
    import optuna

    complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len({each.value for each in complete}) < 2 or len(complete) < 4:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def show(found: Sequence[FoundTrial], keys: Sequence[str], sweep: Sweep, folder: Path) -> None:
    """Prints the table of all trials, and a line with what to do with the best."""
    console = make_console()
    rows = []
    for each in found:
        value = "-" if each.value is None else f"{each.value:.4g}"
        values = [_short(each.values.get(key, "-")) for key in keys]
        reached = max(each.curve, default=0)
        rows.append([str(each.number), each.state, value, f"{reached:,}", *values])
    headings = ("trial", "state", sweep.objective, f"{sweep.prune_by} at the last report", *keys)
    print_rows(console, headings, rows, texts=("state",))
    for each in found:
        if each.reason:
            console.print(f"Trial {each.number} failed: {each.reason}", soft_wrap=True)
    if (folder / "best-1.py").exists():
        console.print(f"To train with the best: --config={folder / 'best-1.py'}", soft_wrap=True)


def _short(text: str) -> str:
    """Shows a number with four digits; other values as they are."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text
