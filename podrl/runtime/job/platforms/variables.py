"""Whole numbers in environment variables, and the port of a job that its number stands for."""

from collections.abc import Mapping

from podrl.config.config import check

_FIRST_PORT, _PORTS = 61440, 4096  # Above the ports that Linux gives to outgoing connections.


def whole_variable(environ: Mapping[str, str], name: str) -> int | None:
    """Returns a variable's whole number; None if it is unset or empty.

    Raises:
        ConfigError: if the value is anything else.
    """
    value = environ.get(name)
    if value is None or value == "":
        return None
    check(value.lstrip("-").isdigit(), f"The environment variable {name}={value!r} is not a whole number.")
    return int(value)


def port_of_job(number: int) -> int:
    """Returns a port for a job's number, so that jobs that share a host use different ones."""
    return _FIRST_PORT + number % _PORTS
