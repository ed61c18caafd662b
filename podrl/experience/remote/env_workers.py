"""The environment workers of one process of a run, as its actors use them."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from absl import logging

from podrl.config.config import Config, ConfigError, EnvConfig, check
from podrl.envs.source import Pool, Source
from podrl.experience.layout import Layout
from podrl.experience.remote.arrays import ArrayLayout
from podrl.experience.remote.endpoint import address_of_process, make_endpoint
from podrl.experience.remote.grpc_options import set_up_grpc
from podrl.experience.remote.messages import LONGEST_JSON_BYTES, Kind
from podrl.experience.remote.pool import RemotePool
from podrl.experience.remote.timesteps import LONGEST_NUMBERS_BYTES, TimestepCodec
from podrl.experience.remote.traffic import ROW_PREFIX
from podrl.runtime.job.secret import FILE_VARIABLE, read_secret_file, take_secret
from podrl.runtime.job.worker_credentials import SECRET, are_made
from podrl.types import Timestep

if TYPE_CHECKING:
    from podrl.experience.remote.server import WorkerServer

_STEPS = (Kind.STEP, Kind.ACT)


class EnvWorkers:
    """The workers, and the source that opens pools in them.

    A context manager: it listens from the start to the end, which the workers are told.

    Attributes:
        source: opens each pool in one of the workers, always the same one.
    """

    def __init__(self, config: Config, source: Source, layout: Layout, timestep: Timestep, process_index: int):
        """Creates them without listening.

        Args:
            config: the run's config, with `remote.env_workers` above 0.
            source: the run's source, which the workers load themselves.
            layout: how environments are assigned to processes and pools.
            timestep: shapes and dtypes of a pool's timesteps.
            process_index: this process's index.

        Raises:
            ConfigError: if they do not divide, the address is wrong, or there is no secret or no gRPC.
        """
        remote, pools = config.remote, layout.num_actors * layout.pools_per_actor
        self._num_workers = _workers_of_process(config, layout)
        self._config, self._pools = config, pools
        address = address_of_process(remote.address, process_index, layout.num_processes)
        endpoint = make_endpoint("remote.address", address, remote.certificates, "remote.certificates")
        self._codec = TimestepCodec(timestep)
        self._opening_s = remote.opening_s(config.actors.timeout_s)
        self._server = import_server()(
            endpoint,
            read_secret(os.environ, address, is_local=endpoint.is_local, certificates=endpoint.certificates),
            dataclasses.asdict(config.env),
            num_workers=self._num_workers,
            longest_bytes=longest_bytes(self._codec.layout),
            longest_answer_s=self._opening_s,
        )
        self._is_local = endpoint.is_local
        self.source = dataclasses.replace(source, make_pool=self._make_pool, gives_numbers=True)

    def __enter__(self) -> "EnvWorkers":
        """Starts listening."""
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)
        logging.info("%s", self.describe_traffic())

    def wait(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Waits until all workers have come; see `WorkerServer.wait`."""
        self._server.wait(timeout_s=self._config.remote.join_timeout_s, should_stop=should_stop)

    def stop_waiting(self) -> None:
        """Ends every wait for workers that have not come, as the run has to stop."""
        self._server.stop_waiting()

    def describe_traffic(self) -> str:
        """Returns what was sent and received so far, for people."""
        steps, refused = self._server.traffic.describe(_STEPS), self._server.refusals.count
        return f"Environment workers: {steps}; {refused} connections refused."

    def totals(self) -> dict[str, int]:
        """Returns what was sent, received and refused so far, by the keys of rows."""
        return {**self._server.traffic.totals(), f"{ROW_PREFIX}refused": self._server.refusals.count}

    def _make_pool(
        self, config: EnvConfig, *, seeds: Sequence[int], num_threads: int, env_numbers: Sequence[int] = ()
    ) -> Pool:
        """Opens a pool in its worker; see `podrl.envs.source.MakePool`."""
        self.wait()
        number = env_numbers[0] // len(env_numbers) % self._pools
        chosen = self._config.actors.env_threads
        return RemotePool(
            self._server.worker(number % self._num_workers),
            self._codec,
            seeds=seeds,
            env_numbers=env_numbers,
            num_threads=chosen or (num_threads if self._is_local else 0),
            num_pools=-(-self._pools // self._num_workers),
            timeout_s=self._config.remote.timeout_s,
            opening_s=self._opening_s,
        )


def longest_bytes(layout: ArrayLayout) -> int:
    """Returns the longest message that is taken: a timestep with numbers of `info`, or JSON."""
    return max(layout.size_bytes + LONGEST_NUMBERS_BYTES, LONGEST_JSON_BYTES)


def read_secret(environ: Mapping[str, str], address: str, *, is_local: bool, certificates: str = "") -> bytes:
    """Returns the job's secret, from the file that a variable names, or on one host from the user's home.

    Without the variable a folder of credentials that were made for the job has it, too.

    Raises:
        ConfigError: if there is none, it is too short, or others may read it.
    """
    path = environ.get(FILE_VARIABLE, "")
    if certificates and not path and are_made(folder := Path(certificates).expanduser()):
        return read_secret_file(folder / SECRET, str(folder / SECRET))
    check(
        bool(path) or is_local,
        f"{address} is open to other hosts, and no secret was given by which learner and environment workers know each "
        f"other. Set {FILE_VARIABLE} on all hosts to the path of a file of mode 600 with the same secret; a folder by "
        "tools/make_job_credentials.py has one.",
    )
    return take_secret({FILE_VARIABLE: path}, address, loopback=is_local)


def check_workers(config: Config, layout: Layout) -> None:
    """Raises `ConfigError`, before anything is compiled, if the run cannot have the environment workers it asks for."""
    remote = config.remote
    if remote.env_workers:
        _workers_of_process(config, layout)
        make_endpoint("remote.address", remote.address, remote.certificates, "remote.certificates")
        import_server()


def _workers_of_process(config: Config, layout: Layout) -> int:
    """Returns the workers of each process."""
    count, pools = config.remote.env_workers, layout.num_actors * layout.pools_per_actor
    check(
        count % layout.num_processes == 0,
        f"remote.env_workers={count} does not divide over {layout.num_processes} processes. Use a multiple of "
        f"{layout.num_processes}.",
    )
    share = count // layout.num_processes
    check(
        share <= pools,
        f"remote.env_workers={count} are more than there are pools: each of {layout.num_processes} process(es) has "
        f"{layout.num_actors} actor threads x {layout.pools_per_actor} pools. Use at most "
        f"{pools * layout.num_processes}, or raise actors.threads_per_device or actors.pools_per_thread.",
    )
    return share


def import_server(who: str = "remote.env_workers") -> "type[WorkerServer]":
    """Returns the server's class, which needs gRPC; `who` wants it.

    Raises:
        ConfigError: if it is not installed.
    """
    set_up_grpc()
    try:
        from podrl.experience.remote.server import WorkerServer
    except ImportError as error:
        raise ConfigError(
            f"{who} needs gRPC and an installed podrl: {error}. Install both by pip install -e '.[workers]'."
        ) from None
    return WorkerServer
