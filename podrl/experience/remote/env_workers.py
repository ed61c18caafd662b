"""The environment workers of one process of a run, as its actors use them."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from types import TracebackType
from typing import TYPE_CHECKING

from absl import logging
import numpy as np

from podrl.config import programs
from podrl.config.config import Config, ConfigError, EnvConfig, check
from podrl.config.extras import install_command
from podrl.envs.source import Pool, Source
from podrl.experience.layout import Layout
from podrl.experience.remote.arrays import ArrayLayout
from podrl.experience.remote.batcher import batch_sizes
from podrl.experience.remote.connection import EnvWorkerError, WorkerConnection
from podrl.experience.remote.endpoint import address_of_process, make_endpoint
from podrl.experience.remote.grpc_options import set_up_grpc
from podrl.experience.remote.messages import LONGEST_JSON_BYTES, Kind
from podrl.experience.remote.pool import RemotePool
from podrl.experience.remote.timesteps import LONGEST_NUMBERS_BYTES, TimestepCodec
from podrl.experience.remote.traffic import ROW_PREFIX
from podrl.experience.schedule import serves_arrivals
from podrl.runtime.job.secret import FILE_VARIABLE, read_secret_file, take_secret
from podrl.runtime.job.worker_credentials import SECRET, find_made
from podrl.types import Timestep

if TYPE_CHECKING:
    from podrl.experience.remote.server import WorkerServer

_STEPS = (Kind.STEP, Kind.ACT)

# (environments' indices [B], their seeds [B], what to call when an answer has come) -> the pool that is not yet begun;
# None while its worker is lost.
OpenGroup = Callable[[np.ndarray, Sequence[int], Callable[[], None]], RemotePool | None]


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
        self._config, self._pools, self._pools_per_actor = config, pools, layout.pools_per_actor
        address = address_of_process(remote.address, process_index, layout.num_processes)
        endpoint = make_endpoint("remote.address", address, remote.certificates, "remote.certificates")
        self._codec = TimestepCodec(timestep)
        self._opening_s = remote.opening_s(config.actors.timeout_s)
        self._server = import_server("remote.env_workers")(
            endpoint,
            read_secret(os.environ, address, is_local=endpoint.is_local, certificates=endpoint.certificates),
            dataclasses.asdict(config.env),
            num_workers=self._num_workers,
            longest_bytes=longest_bytes(self._codec.layout),
            longest_answer_s=self._opening_s,
            replaces=serves_arrivals(config),
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

    def open_group(
        self, env_indices: np.ndarray, seeds: Sequence[int], notify: Callable[[], None], *, num_threads: int
    ) -> RemotePool | None:
        """Opens a pool in its worker without making its environments; see `OpenGroup`. Waits until all have come once.

        Args:
            env_indices: [B] the environments' indices in the job.
            seeds: [B] the environments' seeds.
            notify: called in another thread when an answer has come, or none will.
            num_threads: C++ threads of the pool on this host.
        """
        self.wait()
        numbers = [int(env) for env in env_indices]
        # Every actor has pools in every worker, so that it can go on without one.
        worker = self._server.worker_if_there(self._number(numbers) % self._pools_per_actor % self._num_workers)
        try:
            return None if worker is None else self._open(worker, seeds, numbers, num_threads, notify)
        except EnvWorkerError:
            return None  # It was lost at this moment.

    def _make_pool(
        self, config: EnvConfig, *, seeds: Sequence[int], num_threads: int, env_numbers: Sequence[int] = ()
    ) -> Pool:
        """Opens a pool in its worker; see `podrl.envs.source.MakePool`."""
        self.wait()
        worker = self._server.worker(self._number(env_numbers) % self._num_workers)
        return self._open(worker, seeds, env_numbers, num_threads)

    def _number(self, env_numbers: Sequence[int]) -> int:
        """Returns the number of the pool of these environments in its process."""
        return env_numbers[0] // len(env_numbers) % self._pools

    def _open(
        self,
        worker: WorkerConnection,
        seeds: Sequence[int],
        env_numbers: Sequence[int],
        num_threads: int,
        notify: Callable[[], None] = lambda: None,
    ) -> RemotePool:
        chosen = self._config.actors.env_threads
        return RemotePool(
            worker,
            self._codec,
            seeds=seeds,
            env_numbers=env_numbers,
            num_threads=chosen or (num_threads if self._is_local else 0),
            num_pools=-(-self._pools // self._num_workers),
            timeout_s=self._config.remote.timeout_s,
            opening_s=self._opening_s,
            notify=notify,
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
    if certificates and not path and (folder := find_made(certificates)) is not None:
        return read_secret_file(folder / SECRET, str(folder / SECRET))
    check(
        bool(path) or is_local,
        f"{address} is open to other hosts, and no secret was given by which learner and workers know each other. "
        f"Set {FILE_VARIABLE} on all hosts to the path of a file of mode 600 with the same secret; a folder by "
        f"{programs.program_of('make_job_credentials')} has one.",
    )
    return take_secret({FILE_VARIABLE: path}, address, loopback=is_local)


def check_workers(config: Config, layout: Layout) -> None:
    """Raises `ConfigError`, before anything is compiled, if the run cannot have the environment workers it asks for."""
    remote = config.remote
    if remote.env_workers:
        _workers_of_process(config, layout)
        batch_sizes(config, layout)
        make_endpoint("remote.address", remote.address, remote.certificates, "remote.certificates")
        import_server("remote.env_workers")


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
        not serves_arrivals(config) or share <= layout.pools_per_actor,
        f"remote.env_workers={count} with determinism='free' needs a pool of every actor thread in every worker, to "
        f"continue when one is lost: each of {layout.num_processes} process(es) has {share} "
        f"workers. Use actors.pools_per_thread={share}, or a multiple.",
    )
    check(
        share <= pools,
        f"remote.env_workers={count} are more than there are pools: each of {layout.num_processes} process(es) has "
        f"{layout.num_actors} actor threads x {layout.pools_per_actor} pools. Use at most "
        f"{pools * layout.num_processes}, or raise actors.threads_per_device or actors.pools_per_thread.",
    )
    return share


def import_server(key: str) -> "type[WorkerServer]":
    """Imports the server, which a run without workers does not need.

    Raises:
        ConfigError: if something that `key` needs is not installed.
    """
    set_up_grpc()
    try:
        from podrl.experience.remote.server import WorkerServer
    except ImportError as error:
        raise ConfigError(
            f"{key} needs gRPC and an installed podrl: {error}. Install both by {install_command('workers')}."
        ) from None
    return WorkerServer
