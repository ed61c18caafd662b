"""What a run's folder is called unless the user says so. Needs no JAX: launchers name folders, too."""

import itertools
import time

from etils import epath


def new_folder(config_name: str) -> epath.Path:
    """`runs/<config>-<time>`, or the first of `...-2`, `...-3` and so on that is not there yet."""
    name = f"runs/{config_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in map(epath.Path, candidates) if not path.exists())
