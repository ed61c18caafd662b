"""An environment worker: connects to a learner's process and steps the pools that it asks for.

The main thread reads requests. Each pool has a thread of its own, since some environments can be closed only by the
thread that opened them.
"""

from collections.abc import Callable, Iterator
import queue
import threading
import time
from typing import Any

from absl import logging
import grpc

from podrl.config.config import ConfigError, EnvConfig
from podrl.experience.remote.admission import Admitted, EndedError, FullError, RefusedError, apply
from podrl.experience.remote.endpoint import Endpoint
from podrl.experience.remote.messages import METHOD, SERVICE, Kind, read_fields, read_head
from podrl.experience.remote.pool_thread import Environments, PoolThread
from podrl.experience.remote.roles import ENVIRONMENTS, Role
from podrl.experience.remote.transport import make_channel
from podrl.runtime.job.handshake import UnprovenError
from podrl.runtime.waiting import Patience

_ANSWER_S = 30.0  # For the learner's part of the admission.
_CLOSING_S = 10.0
_LONGEST_BYTES = 1 << 26  # Of a message from the learner: actions, or a config.
_SLICE_S, _PAUSE_S = 1.0, 1.0
_LONGEST_PAUSE_S = 32.0  # Between two losses, for a worker whose environments fail again and again.
_GOOD_S = 60.0  # A worker that served this long begins with a short pause again.
# A learner whose places strangers have, or that ends or begins at this moment.
_NOT_YET = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)

Outgoing = queue.SimpleQueue[bytes | None]
Serve = Callable[[Iterator[bytes], Outgoing, Any], int]


class LostLearnerError(RuntimeError):
    """The learner was lost, or ended with an error; one clear line for the user."""


class _ReturnError(LostLearnerError):
    """The learner was lost, or has given this worker up, and may admit it again."""


def serve_learner(
    endpoint: Endpoint,
    secret: bytes,
    *,
    wait_s: float,
    env_threads: int = 0,
    begin: Callable[[], None] = lambda: None,
    lose: Callable[[], None] = lambda: None,
) -> None:
    """Serves a learner's process until its run ends; comes back after a loss if the learner replaces lost workers.

    Args:
        endpoint: where it listens.
        secret: the job's secret.
        wait_s: seconds to wait until it is there, and has a place for this worker, at the start and after a loss.
        env_threads: threads of each pool; 0 for what the learner asks for, or else this host's cores over the pools.
        begin: called whenever the learner has admitted this worker.
        lose: called whenever the learner was lost that may admit it again.

    Raises:
        ConfigError: if the learner does not admit this worker.
        LostLearnerError: if it does not answer in time, is lost, or its run failed.
    """

    def serve(stream: Iterator[bytes], outgoing: Outgoing, env: EnvConfig) -> int:
        begin()
        logging.info("Steps environments %s of the learner at %s.", env.id, endpoint.address)
        pools: dict[int, PoolThread] = {}
        try:
            return _serve(stream, outgoing, pools, Environments(env, env_threads))
        finally:
            _close(pools)

    attend(endpoint, secret, ENVIRONMENTS, serve, wait_s=wait_s, lose=lose)


def attend(
    endpoint: Endpoint,
    secret: bytes,
    role: Role,
    serve: Serve,
    *,
    wait_s: float,
    lose: Callable[[], None] = lambda: None,
) -> None:
    """Connects to a learner's process and serves it until its run ends; comes back after a loss as `serve_learner`.

    Args:
        endpoint: where it listens.
        secret: the job's secret.
        role: The role of this worker.
        serve: (messages of the learner's, queue of answers, config) -> the exit code of its run; called once the
            learner has admitted this worker.
        wait_s: seconds to wait until it is there, and has a place for this worker, at the start and after a loss.
        lose: called whenever the learner was lost that may admit it again.

    Raises:
        ConfigError, LostLearnerError: as in `serve_learner`.
    """
    patience, pause_s = Patience(wait_s), _PAUSE_S
    code: int | None = None
    while code is None:
        begun_s, next_pause_s = time.monotonic(), _PAUSE_S
        try:
            code = _attend(endpoint, secret, role, serve, wait_s, patience)
        except _ReturnError as error:
            pause_s = _PAUSE_S if time.monotonic() - begun_s > _GOOD_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            logging.warning("%s Tries for %g s to be admitted again.", error, wait_s)
            lose()
            patience, next_pause_s = Patience(wait_s), pause_s
        if code is None:
            _pause(next_pause_s, patience)
    if code:
        raise LostLearnerError(f"The learner's run at {endpoint.address} ended with an error, which it says itself.")


def _pause(pause_s: float, patience: Patience) -> None:
    """Sleeps, though not so long that no patience would be left for a further try."""
    pause = Patience(min(pause_s, max(_PAUSE_S, patience.left_s() - _SLICE_S)))
    while left_s := pause.left_s():
        time.sleep(min(left_s, _SLICE_S))
        patience.left_s()


def _attend(
    endpoint: Endpoint, secret: bytes, role: Role, serve: Serve, wait_s: float, patience: Patience
) -> int | None:
    """Serves a learner, and returns the exit code of its run; None if it has no time for this worker yet."""
    with _connect(endpoint, wait_s, patience) as channel:
        outgoing: Outgoing = queue.SimpleQueue()
        stream = channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter(outgoing.get, None))
        admitted: Admitted | None = None
        try:
            admitted = _apply(endpoint, secret, role, stream, outgoing)
            return serve(stream, outgoing, admitted.config)
        except FullError as error:
            if patience.left_s() > _PAUSE_S + _SLICE_S:  # For a further try.
                return None
            raise LostLearnerError(f"{error} for {wait_s:g} s.") from None
        except grpc.RpcError as error:
            if admitted is None and _code(error) in _NOT_YET and patience.left_s():
                return None
            kind = _ReturnError if admitted is not None and admitted.returns else LostLearnerError
            raise kind(
                f"The learner at {endpoint.address} was lost: {_reason(error)}. What it said itself may tell why."
            ) from None
        finally:
            outgoing.put(None)
            stream.cancel()


def _connect(endpoint: Endpoint, wait_s: float, patience: Patience) -> grpc.Channel:
    """Returns a channel to a learner's process once it is there."""
    channel = make_channel(endpoint, _LONGEST_BYTES)
    ready = grpc.channel_ready_future(channel)
    while True:
        try:
            ready.result(timeout=min(left_s := patience.left_s(), _SLICE_S))
            return channel
        except grpc.FutureTimeoutError:
            if not left_s:
                channel.close()
                raise LostLearnerError(
                    f"No learner answered at {endpoint.address} within {wait_s:g} s. Does it run, with the same "
                    "address in remote.address, and with the same certificates if any, or of the same CA? If it only "
                    "starts slowly, raise --wait_s."
                ) from None


def _apply(endpoint: Endpoint, secret: bytes, role: Role, stream: Any, outgoing: Outgoing) -> Admitted:
    """Goes through the admission."""
    limit = threading.Timer(_ANSWER_S, stream.cancel)
    limit.daemon = True
    limit.start()
    dialogue = apply(secret, role)
    next(dialogue)
    try:
        while True:
            outgoing.put(dialogue.send(next(stream)))
    except StopIteration as end:
        if end.value is None:
            raise LostLearnerError(f"What answers at {endpoint.address} ended the connection.") from None
        return end.value
    except UnprovenError:
        raise ConfigError(
            f"The learner at {endpoint.address} has another job secret. Give both the same PODRL_JOB_SECRET_FILE; each "
            "job on a host needs an address of its own."
        ) from None
    except FullError as error:
        raise FullError(f"The learner at {endpoint.address} has had no place for this worker") from error
    except EndedError as error:
        raise LostLearnerError(f"The learner at {endpoint.address} takes no more workers: {error}.") from None
    except RefusedError as error:
        raise ConfigError(f"This worker is of no use to the learner at {endpoint.address}: {error}.") from None
    except ValueError as error:
        raise ConfigError(f"What answers at {endpoint.address} is no learner of podrl's: {error}.") from None
    finally:
        limit.cancel()


def _serve(
    stream: Iterator[bytes], outgoing: Outgoing, pools: dict[int, PoolThread], environments: Environments
) -> int:
    """Passes requests to the pools' threads, and returns the exit code of the learner's run when it has ended."""
    for message in stream:
        head = read_head(message)
        if head.kind == Kind.END:
            return int(read_fields(message).get("code", 1))
        if head.kind == Kind.OPEN:
            pools[head.channel] = PoolThread(head.channel, environments, outgoing)
        pools[head.channel].requests.put(message)
        if head.kind == Kind.CLOSE:
            del pools[head.channel]
    return 1


def _close(pools: dict[int, PoolThread]) -> None:
    """Closes what is open; an environment that hangs is left to end with the process."""
    for pool in pools.values():
        pool.requests.put(None)
    deadline_s = time.monotonic() + _CLOSING_S
    for pool in pools.values():
        pool.thread.join(max(0.0, deadline_s - time.monotonic()))


def _code(error: Any) -> grpc.StatusCode | None:
    return error.code() if hasattr(error, "code") else None


def _reason(error: Any) -> str:
    details = error.details() if hasattr(error, "details") else ""
    return " ".join(str(details or error).split())[:300]
