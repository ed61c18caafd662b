"""Which run loop a config asks for."""

from collections.abc import Callable

from podrl import anakin, sebulba
from podrl.config import Config
from podrl.progress import Outcome


def run_loop(config: Config) -> Callable[..., Outcome]:
    """The run loop of `topology.placement`: `podrl.sebulba.run`, or another with the same arguments."""
    run: Callable[..., Outcome] = anakin.run if config.topology.placement == "anakin" else sebulba.run
    return run
