"""The learner's server, to which its workers connect: admission, and one stream of messages for each.

gRPC carries the messages as they are: no code is generated, and no bytes are interpreted before `admission` has let
their sender in.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
import contextlib
import queue
import threading
from typing import Any

from absl import logging
import grpc

from podrl.config import programs
from podrl.config.config import ConfigError
from podrl.experience.remote.admission import RefusedError, admit, turn_away
from podrl.experience.remote.connection import WorkerConnection
from podrl.experience.remote.endpoint import UNIX, Endpoint
from podrl.experience.remote.grpc_options import PLACES_FOR_STRANGERS, server_options
from podrl.experience.remote.messages import METHOD, SERVICE, Head, Kind, pack_fields
from podrl.experience.remote.refusals import Refusals
from podrl.experience.remote.roles import ENVIRONMENTS, Role
from podrl.experience.remote.seats import Seats
from podrl.experience.remote.stream_threads import StreamThreads
from podrl.experience.remote.traffic import Traffic
from podrl.experience.remote.transport import listen
from podrl.runtime.job.handshake import UnprovenError
from podrl.runtime.waiting import Stopped, wait_for

_PROOF_S = 10.0  # Time for a worker to prove itself.
_GRACE_S = 5.0


class WorkerServer:
    """Listens for a number of workers; a context manager that tells them that the run has ended.

    Attributes:
        traffic: messages to and from admitted workers.
        refusals: connections that were refused.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        secret: bytes,
        config: Mapping[str, Any],
        *,
        num_workers: int,
        longest_bytes: int,
        longest_answer_s: float = 60.0,
        replaces: bool = False,
        role: Role = ENVIRONMENTS,
    ):
        """Creates the server without listening.

        Args:
            endpoint: where to listen.
            secret: the job's secret.
            config: the part of the run's config that the workers need.
            num_workers: workers to admit.
            longest_bytes: the longest message that a worker may send.
            longest_answer_s: the longest time that a worker may take to answer.
            replaces: whether another worker may come for one that is lost after all have come.
            role: the role of the workers.
        """
        self.traffic = Traffic()
        self.refusals = Refusals()
        self._endpoint, self._secret, self._config, self._role = endpoint, secret, config, role
        self._num_workers, self._replaces = num_workers, replaces
        self._changed = threading.Condition()
        self._seats = Seats(num_workers, replaces=replaces)
        self._gave_up = False
        self._code = 1  # What the workers are told in the end.
        self._is_open = True
        places = num_workers + PLACES_FOR_STRANGERS
        self._server = grpc.server(
            StreamThreads(),
            handlers=[
                grpc.method_handlers_generic_handler(
                    SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(self._serve)}
                )
            ],
            options=server_options(longest_bytes, longest_answer_s, num_workers),
            maximum_concurrent_rpcs=places,
        )

    def __enter__(self) -> "WorkerServer":
        """Starts listening.

        Raises:
            ConfigError: if the server cannot listen there.
        """
        try:
            if self._endpoint.address.startswith(UNIX) and self._endpoint.is_taken():
                raise OSError("a program listens there")
            listen(self._server, self._endpoint)
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f"remote.address={self._endpoint.address} cannot be listened at: another job or program has it, or it "
                f"is not of this host ({' '.join(str(error).split())[:200]}). Choose another."
            ) from None
        self._server.start()
        logging.info("Waits for %d %s(s) at %s.", self._num_workers, self._role.noun, self._endpoint.address)
        return self

    def __exit__(self, *error: object) -> None:
        self.close(code=0 if error[0] is None else 1)

    def close(self, code: int) -> None:
        """Tells the workers that the run has ended with this exit code, and stops listening; may be called again."""
        with self._changed:
            self._is_open, self._code = False, code
            workers = list(self._seats.workers.values())
            self._changed.notify_all()
        for worker in workers:
            worker.end(code)
        self._server.stop(_GRACE_S).wait(2 * _GRACE_S)

    def wait(self, *, timeout_s: float, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Waits until all workers have come.

        Args:
            timeout_s: longest wait in seconds.
            should_stop: asked every second.

        Raises:
            TimeoutError: if they do not come in time.
            Stopped: if the run has to stop before or has ended, or after `stop_waiting`.
        """

        def blame() -> str:
            return (
                f"{len(self._seats.workers)} of {self._num_workers} {self._role.noun}s came to "
                f"{self._endpoint.address} within {timeout_s:g} s "
                f"(remote.join_timeout_s), and {self.refusals.count} connections were refused. "
                f"Look at what the missing ones say; {programs.typed_command(self._role.command)} --connect starts one."
            )

        with self._changed:
            wait_for(
                self._changed,
                lambda: self._seats.see_all() or self._gave_up or not self._is_open,
                timeout_s=timeout_s,
                blame=blame,
                should_stop=should_stop,
            )
            if not (self._seats.have_all_come and self._is_open):
                raise Stopped

    def stop_waiting(self) -> None:
        """Ends every `wait` for workers that have not come."""
        with self._changed:
            self._gave_up = True
            self._changed.notify_all()

    def worker(self, index: int) -> WorkerConnection:
        """Returns a worker; all have come."""
        return self._seats.workers[index]

    def worker_if_there(self, index: int) -> WorkerConnection | None:
        """Returns a worker; None while no other has come for one that was lost."""
        with self._changed:
            self._seats.drop_lost()
            return self._seats.workers.get(index)

    def _serve(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Serves one stream; gRPC runs it in a thread of its own."""
        outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        limit = threading.Timer(_PROOF_S, context.cancel)
        limit.daemon = True
        limit.start()
        try:
            worker = yield from self._let_in(requests, context, outgoing)
        finally:
            limit.cancel()
        if worker is None:
            return
        threading.Thread(target=_read, args=(requests, worker, outgoing), name=worker.name, daemon=True).start()
        while (message := outgoing.get()) is not None:
            yield message

    def _let_in(
        self, requests: Iterator[bytes], context: grpc.ServicerContext, outgoing: "queue.SimpleQueue[bytes | None]"
    ) -> Generator[bytes, None, WorkerConnection | None]:
        """Admits a worker, or refuses it and says so in the log."""
        dialogue = admit(self._secret, self._config, self._role)
        try:
            message = next(dialogue)
            while True:
                yield message
                message = dialogue.send(next(requests))
        except StopIteration as end:
            who = end.value
            if who is None:
                self.refusals.add(context.peer(), "it left without a proof")
                return None
        except grpc.RpcError:
            self.refusals.add(context.peer(), "it left, or gave no proof in time")
            return None
        except ValueError:
            self.refusals.add(context.peer(), "what it said is not podrl's")
            return None
        except UnprovenError:
            self.refusals.add(context.peer(), "it does not have the job's secret")
            yield turn_away("")
            return None
        except RefusedError as error:
            self.refusals.add(context.peer(), str(error))
            yield turn_away(str(error))
            return None
        with self._changed:
            index = self._seats.find_free()
            if index is not None and self._is_open:
                name = f"{self._role.noun} {index} ({who.host}, process {who.pid})"
                worker = WorkerConnection(name, outgoing.put, context.cancel, self.traffic)
                outgoing.put(pack_fields(Head(Kind.ADMITTED), index=index, returns=self._replaces))
                self._seats.workers[index] = worker
                self._changed.notify_all()
                logging.info("%s is there.", name[:1].upper() + name[1:])
                return worker
            has_ended = not self._is_open
        why = "this run ends" if has_ended else f"this run has its {self._num_workers} {self._role.noun}s"
        for_now = self._replaces and not has_ended
        if not for_now:  # It asks again and again for a place.
            self.refusals.add(context.peer(), why)
        yield turn_away(why, for_now=for_now, has_ended=has_ended)
        return None


def _read(requests: Iterator[bytes], worker: WorkerConnection, outgoing: "queue.SimpleQueue[bytes | None]") -> None:
    """Delivers messages until the stream ends."""
    why = "its process ended, or its host does not answer"
    try:
        for message in requests:
            worker.deliver(message)
    except ValueError as error:
        why = f"it sent {error}"
    except grpc.RpcError:
        pass
    finally:
        with contextlib.suppress(RuntimeError):
            worker.lose(why)
        outgoing.put(None)
