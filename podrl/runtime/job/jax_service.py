"""JAX's coordination service and its clients: podrl's only use of JAX's private API.

JAX's public way into a job, `jax.distributed.initialize`, runs the service inside process 0 and ends all processes
when one is lost. podrl runs the service beside process 0 and names the lost process (`podrl.runtime.job.coordinator`),
for which there is no public API. Only jobs of several processes import this module, so a JAX that has changed cannot
harm a run of one process.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import importlib
import importlib.metadata
import operator
import socket
from typing import Any

from podrl.mistakes import ConfigError

TESTED = ("0.10.2", "0.12.0.1")  # The oldest and the newest JAX on which tests/multihost/test_jax_service.py passes.
_REGISTER_S = 600  # JAX's limit for its clients to connect once all processes have met; they connect at once.
_SHUTDOWN_S = 5
_CLIENTS = (
    *("connect", "shutdown", "key_value_set", "key_value_delete", "key_value_dir_get"),
    *("blocking_key_value_get", "get_live_nodes"),
)
_NAMES = {
    "jaxlib._jax": (
        *("get_distributed_runtime_service", "get_distributed_runtime_client", "make_gloo_tcp_collectives"),
        *("JaxRuntimeError", *(f"DistributedRuntimeClient.{name}" for name in _CLIENTS)),
    ),
    "jax._src.distributed": ("global_state",),
    "jax._src.xla_bridge": ("backends_are_initialized", "make_cpu_client", "register_backend_factory"),
}


def check_names() -> None:
    """Raises ConfigError unless this JAX has every private name that podrl uses."""
    for module, names in _NAMES.items():
        for name in names:
            with _expecting(f"{module}.{name}"):
                operator.attrgetter(name)(importlib.import_module(module))


def start_service(
    listener: socket.socket, address: str, count: int, stale_s: int, mtls: Mapping[str, str] | None = None
) -> Any:
    """Starts JAX's service at the address of a listening socket, so that no other program takes the port in between.

    From then on sockets of the same user may share the port, as gRPC's ask to; sockets of other users may not. The
    caller closes its socket afterwards. Imports jaxlib, but not JAX.

    Args:
        listener: The listening socket.
        address: 'host:port' of both.
        count: The number of processes.
        stale_s: Seconds without a heartbeat after which a process is stuck.
        mtls: JAX's arguments for mutual TLS.

    Returns:
        The service, which lasts as long as it is referred to.

    Raises:
        OSError: if it does not start.
        ConfigError: if JAX does not take these arguments.
    """
    from jaxlib import _jax

    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        with _expecting("the arguments of get_distributed_runtime_service"):
            return _jax.get_distributed_runtime_service(
                address,
                count,
                heartbeat_timeout=stale_s,
                cluster_register_timeout=_REGISTER_S,
                shutdown_timeout=_SHUTDOWN_S,
                recoverable=True,  # podrl reports a lost process; otherwise all clients would abort.
                **(mtls or {}),
            )
    except _jax.JaxRuntimeError as error:
        raise OSError(f"JAX's service does not start at {address}: {str(error).partition(chr(10))[0]}") from None


class Client:
    """A process's connection to JAX's service, which holds keys and values and knows which processes are alive.

    Its methods raise `jax.errors.JaxRuntimeError` if the service has ended.
    """

    def __init__(self, address: str, index: int, *, connect_s: int, beat_s: int, mtls: Mapping[str, str] | None = None):
        """Makes the client, which `connect` connects.

        Args:
            address: 'host:port' of the service.
            index: This process's index.
            connect_s: Seconds that `connect` tries.
            beat_s: Twice the seconds between two heartbeats.
            mtls: JAX's arguments for mutual TLS.

        Raises:
            ConfigError: if JAX does not take these arguments.
        """
        from jaxlib import _jax

        with _expecting("the arguments of get_distributed_runtime_client"):
            self._client = _jax.get_distributed_runtime_client(
                address,
                index,
                init_timeout=connect_s,
                shutdown_timeout=_SHUTDOWN_S,
                heartbeat_timeout=beat_s,
                shutdown_on_destruction=False,
                use_compression=True,
                **(mtls or {}),
            )
        self._failure = _jax.JaxRuntimeError

    def connect(self) -> None:
        """Connects, and starts to send heartbeats."""
        self._client.connect()

    def shutdown(self) -> None:
        """Leaves the service."""
        self._client.shutdown()

    def put(self, key: str, value: str) -> None:
        """Sets a key that has no value yet."""
        self._client.key_value_set(key, value)

    def take(self, key: str, timeout_s: float) -> str | None:
        """Returns the value as soon as there is one; None if that takes longer than `timeout_s`."""
        try:
            return self._client.blocking_key_value_get(key, max(1, int(1000 * timeout_s)))
        except self._failure as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            return None

    def delete(self, key: str) -> None:
        """Deletes a key and all keys below it."""
        self._client.key_value_delete(key)

    def keys(self, folder: str) -> list[str]:
        """Returns the keys below `folder`."""
        return [key for key, _ in self._client.key_value_dir_get(folder)]

    def alive(self, processes: Sequence[int]) -> set[int]:
        """Returns the processes that send heartbeats; waits until all of these have called this."""
        return set(self._client.get_live_nodes(list(processes)))

    def give_to_jax(self, address: str, index: int, count: int) -> None:
        """Sets what `jax.distributed.initialize` would set, so that JAX finds the devices of the whole job."""
        from jax._src import distributed

        state = distributed.global_state
        state.process_id, state.num_processes = index, count
        state.coordinator_address, state.client = address, self._client

    def take_from_jax(self) -> None:
        """Makes JAX forget this client, which it would use while Python shuts down."""
        from jax._src import distributed

        distributed.global_state.client = None

    def listen_with_gloo(self, host: str) -> None:
        """Makes JAX's collectives on CPUs listen at `host`."""
        from jax._src import xla_bridge
        from jaxlib import _jax

        def make_cpu_client() -> Any:
            gloo = _jax.make_gloo_tcp_collectives(distributed_client=self._client, hostname=host)
            return xla_bridge.make_cpu_client(gloo)

        xla_bridge.register_backend_factory("cpu", make_cpu_client, priority=0, fail_quietly=False)


def has_backends() -> bool:
    """Returns whether JAX has looked for devices already."""
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


@contextlib.contextmanager
def _expecting(what: str) -> Iterator[None]:
    """Raises `ConfigError`, which says what to install, where JAX lacks or rejects what podrl expects."""
    try:
        yield
    except (ImportError, AttributeError, TypeError) as error:
        oldest, newest = TESTED
        raise ConfigError(
            f"jax {importlib.metadata.version('jax')} differs in {what}, on which podrl's jobs of several processes "
            f"rest. podrl was tested with jax {oldest} and {newest}; a run of one process needs neither. Install one "
            f"of them: pip install 'jax=={newest}', or 'jax=={oldest}' with Python 3.11."
        ) from error
