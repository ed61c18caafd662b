"""Which run loop a config asks for."""

from collections.abc import Callable

from podrl import anakin, sebulba
from podrl.config import Config
from podrl.progress import Outcome

_RUN_LOOPS: dict[str, Callable[..., Outcome]] = {"anakin": anakin.run, "sebulba": sebulba.run}


def run_loop(config: Config) -> Callable[..., Outcome]:
    """The run loop of `topology.placement`: `podrl.sebulba.run`, or another with the same arguments."""
    return _RUN_LOOPS[config.topology.placement]
