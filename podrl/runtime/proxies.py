"""Proxies lead to the internet; connections inside a job never use one.

podrl's own sockets ignore proxies. Connections that libraries make by gRPC, such as JAX's service, obey environment
variables that environments, loggers and storage may need; so these are put aside only while the service is connected.
"""

from collections.abc import Iterator, MutableMapping
import contextlib

# The variables that gRPC reads first; an empty one means that there is no proxy.
_DIRECT: dict[str, str | None] = {"grpc_proxy": "", "GRPC_ADDRESS_HTTP_PROXY": None}


@contextlib.contextmanager
def without_proxies(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Makes gRPC channels that are created and connected within the context bypass proxies.

    Args:
        environ: the process's environment, `os.environ`, which C libraries read too; restored afterwards.
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
