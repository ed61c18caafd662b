"""The yardsticks by which a study's runs are predicted, kept beside its manifest: a machine is measured once.

What is a config's own, its environments and its networks' products, is timed with each prediction.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json

from absl import logging
from etils import epath

from podrl.config.config_dict import differences
from podrl.mistakes import shorten
from podrl.performance.planning.yardsticks import FIT, Yardsticks
from podrl.runs.workdir import write_json
from podrl.studies.machine import describe_host

YARDSTICKS = "yardsticks.json"


def keep_yardsticks(path: epath.Path, processes: Sequence[int], measure: Callable[[], Yardsticks]) -> Yardsticks:
    """The yardsticks of a file, if it was this machine that they were measured on, with the same software.

    Else they are measured, and kept there.

    Args:
        path: of the file.
        processes: numbers of them that the study has jobs of.
        measure: measures this machine.
    """
    now = {**describe_host(), "fit": FIT, "processes": sorted({*processes})}
    if path.exists():
        try:
            kept = json.loads(path.read_text())
            changes = differences(kept["machine"], now)
            known = Yardsticks(**kept["yardsticks"])
        except (ValueError, TypeError, KeyError, AttributeError):
            logging.warning("%s does not hold yardsticks: measures this machine again.", path)
        else:
            if not changes:
                logging.info("Predicts with the yardsticks that were measured before (%s).", path)
                return known
            told = shorten([f"{key} was {before}, is {after}" for key, (before, after) in changes.items()])
            logging.info("Measures this machine again: %s.", told)
    measured = measure()
    write_json(path, {"machine": now, "yardsticks": dataclasses.asdict(measured)})
    return measured
