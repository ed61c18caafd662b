"""Addresses at which processes of a job meet: 'host:port', as in the flag --coordinator."""

import re
import socket

from podrl.config.config import check

_LOOPBACK = re.compile(r"localhost|127(\.\d+){1,3}|::1")


def check_address(address: str, key: str = "--coordinator") -> None:
    """Raises `ConfigError` unless the address in a flag or config key has the right form and a valid port."""
    host, _, port = address.rpartition(":")
    check(
        bool(host) and port.isdigit() and (":" not in host or host[0] + host[-1] == "[]"),
        f"{key}={address} is not of the form HOST:PORT, such as node1:12345.",
    )
    check(0 < int(port) < 65536, f"{key}={address}: port {port} is out of range. Choose one from 1024 to 65535.")


def is_loopback(address: str) -> bool:
    """Returns whether 'host:port' means this host, whichever host uses it."""
    return _LOOPBACK.fullmatch(split_address(address)[0].casefold()) is not None


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of 'host:port' or '[IPv6]:port'."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def meeting_point(address: str) -> tuple[str, int]:
    """Returns the host and port to listen at and to connect to.

    For a name with several loopback addresses it returns the first: another user's program may listen at the second.
    """
    host, port = split_address(address)
    if not is_loopback(address):
        return host, port
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
    return str(found[0]), port


def join_address(host: str, port: int) -> str:
    """Returns 'host:port' or '[IPv6]:port'."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
