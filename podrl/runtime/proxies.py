"""Proxies lead to the internet; the connections inside a job never go through one.

podrl's own sockets know of none. What the libraries connect by gRPC, and so JAX's service, obeys variables of the
environment, which environments, loggers and storage may need; so those are put aside only while that is connected.
"""

from collections.abc import Iterator, MutableMapping
import contextlib

# What gRPC looks at first; an empty one means that there is no proxy.
_DIRECT: dict[str, str | None] = {"grpc_proxy": "", "GRPC_ADDRESS_HTTP_PROXY": None}


@contextlib.contextmanager
def without_proxies(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Has channels of gRPC that are made and connected within go straight to where they lead.

    Args:
        environ: of the process, `os.environ`, which libraries in C read too; as before afterwards.
    """
    before = {name: environ.get(name) for name in _DIRECT}
    _set(environ, _DIRECT)
    try:
        yield
    finally:
        _set(environ, before)


def _set(environ: MutableMapping[str, str], values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
