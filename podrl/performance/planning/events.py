"""The engine of the simulation, simpy, which only planning needs: `pip install -e '.[plan]'`."""

from podrl.config.config import ConfigError

try:
    from simpy import Environment, Event, Store
except ModuleNotFoundError:
    raise ConfigError("Simulating needs the package simpy: pip install simpy, or pip install -e '.[plan]'.") from None

__all__ = ["Environment", "Event", "Store"]
