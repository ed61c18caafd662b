"""The rows of a run as a pandas DataFrame."""

import os
from typing import TYPE_CHECKING

from podrl.config.config import ConfigError
from podrl.config.extras import install_command
from podrl.config.paths import absolute
from podrl.runs.records import read_record
from podrl.telemetry.rates import CLOCK_FIELDS, WALL_KEY, RunClock

if TYPE_CHECKING:
    import pandas


def metrics(workdir: str | os.PathLike) -> "pandas.DataFrame":
    """Returns the rows of `metrics.jsonl`, of a run that may be in progress.

    A column that a row does not have is NaN there: evaluations have rows of their own, with `evaluate/...`.
    `time/wall_s` adds up the starts of the run, as `tools/plot.py` does.

    Raises:
        ConfigError: If there is no run, or pandas is missing.
    """
    try:
        import pandas
    except ImportError:
        raise ConfigError(
            f"podrl.metrics needs pandas: pip install pandas, or {install_command('pandas')}. metrics.jsonl itself is "
            "one JSON object a line."
        ) from None
    clock, rows = RunClock(), []
    for row in read_record(absolute(os.fspath(workdir))).rows:
        seconds = clock.read({name: row[name] for name in CLOCK_FIELDS if name in row})
        rows.append(row if seconds is None else {**row, WALL_KEY: seconds})
    return pandas.DataFrame(rows)
