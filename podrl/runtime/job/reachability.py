"""Checks that the processes of a job reach each other, before JAX connects them.

JAX's collectives on CPUs (Gloo) connect each two processes directly. Each listens at one address and at a port that
its system chooses. By default Gloo takes the address of the host's own name, which may be unknown, or not lead to this
host from others. So podrl chooses the address by which a process has reached the others, and each process connects to
every other one at such an address and port, as Gloo will, and verifies its proof.
"""

from collections.abc import Iterator, Sequence
import concurrent.futures
import contextlib
import dataclasses
import ipaddress
import json
from pathlib import Path
import selectors
import socket
import threading
import time

from podrl.config.config import check
from podrl.runtime.job import wire
from podrl.runtime.job.addresses import join_address
from podrl.runtime.job.entrance import Entrance, Stranger
from podrl.runtime.job.handshake import UnprovenError, prove_both
from podrl.runtime.job.job import Job
from podrl.runtime.job.messages import capital, does_not_reach
from podrl.runtime.waiting import Patience

_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_PORTS = "32768 to 60999"  # The range of Linux.
_CONNECT_S = 2.0  # `Patience` counts at most this between two looks; a lost packet is sent again after one second.
_ANSWER_S = 5.0
_REACH_S = 8.0  # For all attempts to reach one process.
_RETRY_S = 0.5
_SLICE_S = 0.1
_ANSWER_SLICE_S = 1.0
_AT_ONCE = 64  # Processes that one tries to reach at the same time.
_ENOUGH = 8  # A process that cannot reach this many stops trying.
_ANSWERS_S = 60.0  # Least time for the answers of all processes.
_DISCARD_PORT = 9  # Port of a packet that is never sent.


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Listening:
    """Address at which a process listens; `ports` is the range that its system chooses from."""

    address: str
    port: int
    ports: str

    @property
    def shown(self) -> str:
        """The address for people."""
        return join_address(self.address, self.port)


def meet_in_pairs(job: Job, own_address: str, secret: bytes, timeout_s: float) -> tuple[str, str]:
    """Connects each process to every other one.

    Args:
        job: the job, all of whose processes call this.
        own_address: the address from which this process has reached the coordinator.
        secret: the job's secret.
        timeout_s: seconds to wait for the others.

    Returns:
        The address at which this process's collectives are to listen, and one line, the same for all processes, on
        which process does not reach which; empty if all reach each other.

    Raises:
        ConfigError: if the processes have addresses of different kinds.
        TimeoutError: if a process does not answer in time; the message names it.
        RuntimeError: if this process cannot listen.
    """
    address = choose_address(own_address, job.exchange("addresses", own_address, timeout_s))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(address))
        stack.enter_context(_answering(listener, secret, wire.listener(job.process_index)))  # Others may be quicker.
        mine = _Listening(address=address, port=listener.getsockname()[1], ports=_own_ports())
        told = job.exchange("listeners", json.dumps(dataclasses.asdict(mine)), timeout_s)
        places = [_Listening(**json.loads(text)) for text in told]
        _check_kinds(job, places)
        unreached = _try_all(job.process_index, places, secret)
        answers = job.exchange("reached", json.dumps(unreached), max(timeout_s, _ANSWERS_S))
    missed = [(source, target, why) for source, text in enumerate(answers) for target, why in json.loads(text)]
    pairs = [
        f"{job.name_of(source)} does not reach {job.name_of(target)} at {places[target].shown} ({why})"
        for source, target, why in missed
    ]
    return address, does_not_reach(pairs, places[missed[0][1]].ports) if missed else ""


def choose_address(own: str, all_own: Sequence[str]) -> str:
    """Returns the address of this process that the others reach.

    Args:
        own: the address from which it has reached the coordinator. Beside the coordinator this may be one that only
            this host can reach.
        all_own: the same of all processes; the first one is beside the coordinator.
    """
    far = next((each for each in reversed(all_own) if each != own and not _is_within_host(each)), None)
    is_beside = _is_within_host(own) or own == all_own[0]
    if far is None or (not is_beside and (":" in own) == (":" in far)):
        return own
    kind = socket.AF_INET6 if ":" in far else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(kind, socket.SOCK_DGRAM) as probe:
        probe.connect((far, _DISCARD_PORT))
        return str(probe.getsockname()[0])
    return own  # There is no route, as the check will report.


def _is_within_host(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _listen(address: str) -> socket.socket:
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server(found[4], family=found[0], backlog=1024)
    except OSError as error:
        raise RuntimeError(f"This process cannot listen at {address}, for the others to connect: {error}.") from None


def _own_ports() -> str:
    """Returns the range of ports from which this host's system chooses."""
    try:
        return " to ".join(_PORTS.read_text().split())
    except OSError:
        return _USUAL_PORTS


def _check_kinds(job: Job, places: Sequence[_Listening]) -> None:
    """Raises `ConfigError` unless all addresses are IPv4, or all are IPv6: Gloo does not connect the two kinds."""
    kinds = [":" in place.address for place in places]
    four, six = (kinds.index(kind) if kind in kinds else 0 for kind in (False, True))
    check(
        len(set(kinds)) == 1,
        f"{capital(job.name_of(four))} has reached the coordinator from {places[four].address}, {job.name_of(six)} "
        f"from {places[six].address}; all must use IPv4, or all IPv6. Give --coordinator with an address in numbers, "
        "which all of them reach.",
    )


@contextlib.contextmanager
def _answering(listener: socket.socket, secret: bytes, role: str) -> Iterator[None]:
    """Answers the other processes as long as the context lasts."""
    over = threading.Event()
    thread = threading.Thread(target=_answer, args=(listener, secret, role, over), name="reached", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _answer(listener: socket.socket, secret: bytes, role: str, over: threading.Event) -> None:
    with selectors.DefaultSelector() as selector:
        entrance = Entrance(listener, selector, secret, role=role)
        while not over.is_set():
            for key, _ in selector.select(timeout=_SLICE_S):
                if not isinstance(key.data, Stranger):
                    entrance.accept()
                elif entrance.read(key.data):
                    key.data.connection.close()
            entrance.send_late_away()
        entrance.close()


def _try_all(index: int, places: Sequence[_Listening], secret: bytes) -> list[tuple[int, str]]:
    """Returns the processes that this one does not reach, and why."""
    others = [*range(index + 1, len(places)), *range(index)]  # Processes begin with different ones.
    unreached: list[tuple[int, str]] = []

    def attempt(other: int) -> None:
        if len(unreached) < _ENOUGH and (why := _try(places[other], secret, wire.listener(other))):
            unreached.append((other, why))

    with concurrent.futures.ThreadPoolExecutor(min(_AT_ONCE, len(others))) as pool:
        for _ in pool.map(attempt, others):
            pass
    return sorted(unreached)


def _try(place: _Listening, secret: bytes, role: str) -> str:
    """Returns why a process is not reached; empty if it is."""
    patience = Patience(_REACH_S)
    while True:
        try:
            with socket.create_connection((place.address, place.port), timeout=_CONNECT_S) as connection:
                connection.settimeout(_ANSWER_SLICE_S)
                prove_both(connection, secret, _ANSWER_S, whose=role)
                return ""
        except (UnprovenError, ValueError):
            return "another program answers there"
        except TimeoutError:
            why = "no answer"
        except OSError as error:
            why = error.strerror or str(error)
        if not patience.left_s():
            return why
        time.sleep(_RETRY_S)
