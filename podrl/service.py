"""JAX's coordination service, which listens where the processes of a job have met."""

import socket
from typing import Any

_REGISTER_S = 600  # JAX's own limit for its clients to come once all have met; they come at once.


def start(listener: socket.socket, address: str, count: int, stale_s: int) -> Any:
    """Starts it beside the socket that listens there already, so that no other program can take the port in between.

    From now on sockets of the same user may share the port, as those of gRPC ask to; those of other users may not. The
    caller closes its socket afterwards.

    Args:
        listener: that socket.
        address: of both.
        count: of the processes.
        stale_s: without a heartbeat for so long, a process is stuck.

    Returns:
        The service, which lasts as long as it is referred to.

    Raises:
        OSError: if it does not start.
    """
    from jaxlib import _jax

    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        # Recoverable: a lost process is for podrl to tell; otherwise all clients would abort.
        return _jax.get_distributed_runtime_service(
            address,
            count,
            heartbeat_timeout=stale_s,
            cluster_register_timeout=_REGISTER_S,
            shutdown_timeout=5,
            recoverable=True,
        )
    except _jax.JaxRuntimeError as error:
        raise OSError(f"JAX's service does not start at {address}: {str(error).partition(chr(10))[0]}") from None
