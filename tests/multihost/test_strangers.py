"""Whoever does not have the job's secret changes nothing, whatever it says; whoever has it is believed."""

import contextlib
import itertools
import os
from pathlib import Path
import re
import selectors
import socket
import subprocess
import sys
import threading
import time

import pytest

from podrl.config.config import ConfigError
from podrl.runtime.job import wire
from podrl.runtime.job.addresses import split_address
from podrl.runtime.job.connection import Connection
from podrl.runtime.job.coordinator import Coordinator
from podrl.runtime.job.coordinator_start import start_coordinator
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.entrance import MOST_STRANGERS, Entrance
from podrl.runtime.job.handshake import UnprovenError, prove_both
from podrl.runtime.job.secret import FILE_VARIABLE, VARIABLE, make_secret
from tests.faults.commands import SCRIPTED
from tests.faults.sameness import assert_same
from tests.multihost.hostile import attack, introduction
from tests.multihost.jobs import Member, coordinators, free_address
from tests.processes import finish, launch, num_rows, running, wait_for

SECRET = b"a secret of sixteen bytes or more"
LIMITS = ("--join_timeout_s=250", "--config.actors.timeout_s=250", "--config.watchdog_s=500")
# Another user's; takes the port in the first moment in which it can.
SQUATTER = """
import os, socket, sys, time
os.setuid(12345)
print("begins", flush=True)
while True:
    squatter = socket.socket()
    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        squatter.bind(("127.0.0.1", int(sys.argv[1])))
        squatter.listen()
        print("has it", flush=True)
        time.sleep(60)
    except OSError:
        squatter.close()
"""
MESSAGES = int(os.environ.get("PODRL_TEST_HOSTILE_MESSAGES", "10000"))


def member(address, index, count=2):
    return find_membership({}, coordinator=address, process_count=count, process_index=index)


@contextlib.contextmanager
def coordinator(count=2):
    """A coordinator whose process 0 this one is; returns its address."""
    address = free_address()
    process = start_coordinator(member(address, 0, count), SECRET)
    try:
        yield address, process
    finally:
        process.kill()
        process.wait()


def connect(address):
    connection = socket.create_connection(split_address(address), timeout=1.0)
    return connection, prove_both(connection, SECRET, 30.0)


def hear(connection, lines, key):
    """The next message that has this key."""
    deadline_s = time.monotonic() + 60.0
    while time.monotonic() < deadline_s:
        while (message := lines.pop()) is not None:
            if key in message:
                return message
        with contextlib.suppress(TimeoutError):
            received = connection.recv(65536)
            assert received, f"the connection ended without {key!r}"
            lines.add(received)
    raise AssertionError(f"no {key!r} within a minute")


def meet(address, index, count=2):
    """Joins as this process, in a thread; returns the thread and where its connection will be."""
    found = {}
    thread = threading.Thread(
        target=lambda: found.setdefault("line", Connection(member(address, index, count), 60.0, SECRET))
    )
    thread.start()
    return thread, found


def test_messages_of_strangers_change_nothing_while_processes_meet(caplog):
    with coordinator() as (address, process):
        thread, found = meet(address, 0)
        made = attack(address, 400, seed=1)
        assert made > 300
        assert process.poll() is None
        other, others = meet(address, 1)
        for each in (thread, other):
            each.join(60)
        assert found["line"].hosts == others["line"].hosts == (socket.gethostname(),) * 2
        for line in (found["line"], others["line"]):
            line.close()
    refused = [record.getMessage() for record in caplog.records if "did not prove" in record.getMessage()]
    assert 0 < sum(int(re.search(r"Refused (\d+)", line).group(1)) for line in refused) <= made
    assert len(refused) < 10
    assert all(f"to {address}" in line and f"the same {VARIABLE}" in line for line in refused)
    assert not any(SECRET.decode() in record.getMessage() for record in caplog.records)


class TestStrangers:
    """One kind of them at a time."""

    def refused(self, *said):
        """What a coordinator with one process in it says of strangers, one for each text; it goes on."""
        with coordinator() as (address, _):
            connection, lines = connect(address)
            connection.sendall(introduction(index=0))
            assert hear(connection, lines, "waiting_for") == {"waiting_for": [1]}
            for text in said:
                with socket.create_connection(split_address(address), timeout=10.0) as stranger:
                    with contextlib.suppress(OSError):
                        stranger.sendall(text)
                    with contextlib.suppress(OSError):
                        while stranger.recv(1000):
                            pass
            other, others = connect(address)
            other.sendall(introduction(index=1))
            reports = hear(connection, lines, "last")
            assert hear(connection, lines, "hosts")["hosts"] == ["node2", "node2"]
            assert hear(other, others, "hosts")["hosts"] == ["node2", "node2"]
        return reports["last"]

    @pytest.mark.parametrize(
        "text",
        [
            b'{"index": Infinity}\n',
            b'{"index": 1e999, "count": 2, "host": "x", "job": ""}\n',
            b"[" * 100_000 + b"\n",
            b'{"a": ' + b"[" * 1010 + b"\n",
            b'{"a":' * 100_000,
            b"x" * 2_000_000,
            b"{" * 2_000_000,
            introduction(index=1),
            introduction(index=7),
        ],
        ids=[
            "infinity",
            "1e999",
            "deep list",
            "deep list in a short line",
            "deep object",
            "long",
            "long object",
            "seat",
            "beyond",
        ],
    )
    def test_that_say_what_they_like_are_sent_away(self, text):
        assert self.refused(text) == "127.0.0.1: what it said is not podrl's"

    def test_a_wrong_proof_a_reflected_and_an_overheard_one_prove_nothing(self):
        with coordinator() as (address, _):
            with (
                socket.create_connection(split_address(address), timeout=30.0) as connection,
                pytest.raises(UnprovenError),
            ):
                prove_both(connection, b"another secret of sixteen bytes", 30.0)
            with (
                socket.create_connection(split_address(address), timeout=30.0) as connection,
                pytest.raises(UnprovenError),
            ):
                prove_both(connection, SECRET, 30.0, whose=wire.listener(0))  # Made for another process's port.
            with socket.create_connection(split_address(address), timeout=30.0) as connection:
                nonce = wire.parse_message(connection.recv(1000))["nonce"]
                overheard = wire.encode_message(nonce=nonce, proof=wire.prove(SECRET, wire.PROCESS, nonce, nonce))
                connection.sendall(
                    wire.encode_message(nonce=nonce, proof=wire.prove(SECRET, wire.COORDINATOR, nonce, nonce))
                )
                assert wire.parse_message(connection.recv(1000)) == {"unproven": True}
            with socket.create_connection(split_address(address), timeout=30.0) as connection:
                assert wire.parse_message(connection.recv(1000))["nonce"] != nonce
                connection.sendall(overheard)
                assert wire.parse_message(connection.recv(1000)) == {"unproven": True}

    def test_that_hold_all_places_do_not_keep_the_others_out(self):
        with coordinator() as (address, _), contextlib.ExitStack() as stack:
            for _ in range(MOST_STRANGERS + 50):
                stack.enter_context(socket.create_connection(split_address(address), timeout=10.0))
            connection, lines = connect(address)
            connection.sendall(introduction(index=0))
            assert hear(connection, lines, "waiting_for") == {"waiting_for": [1]}
            assert "too many came" in hear(connection, lines, "last")["last"]

    def test_that_say_nothing_are_sent_away_after_a_while(self, monkeypatch):
        monkeypatch.setattr("podrl.runtime.job.entrance.PROOF_S", 0.0)
        selector = selectors.DefaultSelector()
        with socket.create_server(("127.0.0.1", 0)) as server:
            entrance = Entrance(server, selector, SECRET)
            with socket.create_connection(server.getsockname(), timeout=30.0) as silent:
                assert selector.select(30.0)
                entrance.accept()
                assert wire.is_nonce(wire.parse_message(silent.recv(1000))["nonce"])
                entrance.send_late_away()
                assert silent.recv(1000) == b""
        assert entrance.take_report() == {"refused_strangers": 1, "last": "127.0.0.1: no proof within 0 s"}

    def test_of_one_host_do_not_keep_a_slow_process_of_another_out(self):
        with coordinator() as (address, _), contextlib.ExitStack() as stack:
            slow = socket.create_connection(split_address(address), timeout=30.0, source_address=("127.0.0.2", 0))
            stack.enter_context(slow)
            for _ in range(MOST_STRANGERS + 50):
                last = stack.enter_context(socket.create_connection(split_address(address), timeout=30.0))
            assert last.recv(1)  # All have been let in.
            lines = prove_both(slow, SECRET, 30.0)
            slow.sendall(introduction(index=0))
            assert hear(slow, lines, "waiting_for") == {"waiting_for": [1]}

    def test_that_drip_are_not_listened_to_for_longer_than_the_limit(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(1.0)
            threading.Thread(target=drip, args=(theirs,), daemon=True).start()
            with pytest.raises(TimeoutError):
                prove_both(ours, SECRET, 0.5)


SAID = [
    *({"give_up": 10**400}, {"give_up": "1"}, {"give_up": True}, {"give_up": None}, {"give_up": [1]}),
    *(
        {"fail": "x"},
        {"fail": "x", "exit_code": 10**400},
        {"fail": "x", "exit_code": -1},
        {"fail": 1, "exit_code": 1.5},
    ),
    *({"stuck": 10**400}, {"stuck": [10**400]}, {"stuck": {"a": 1}}, {"stuck": None}, {"index": 0}, {"index": []}),
]


def meet_all(address, count=2):
    """All processes meet; returns the hosts that each was told."""
    begun = [meet(address, index, count) for index in range(count)]
    for thread, _ in begun:
        thread.join(60)
    for _, found in begun:
        found["line"].close()
    return [found["line"].hosts for _, found in begun]


@pytest.mark.skipif(os.geteuid() != 0, reason="a program of another user wants root")
def test_another_users_program_does_not_get_the_port_between_the_meeting_and_jaxs_service():
    with coordinator() as (address, _):
        command = [sys.executable, "-c", SQUATTER, address.rpartition(":")[2]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as squatter:
            try:
                assert squatter.stdout.readline() == "begins\n"
                assert meet_all(address) == [(socket.gethostname(),) * 2] * 2
            finally:
                squatter.kill()
                assert squatter.stdout.read() == ""


def test_all_are_told_that_jaxs_service_does_not_start(monkeypatch):
    def fail(*_):
        raise OSError("JAX's service does not start at 127.0.0.1:1: no reason")

    monkeypatch.setattr("podrl.runtime.job.jax_service.start_service", fail)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        where = Coordinator(server.dup(), service_address="", count=2, job="", parent=os.getppid(), secret=SECRET)
        raised = []

        def join(index):
            try:
                Connection(member(address, index), 60.0, SECRET)
            except RuntimeError as error:
                raised.append(str(error))

        threads = [threading.Thread(target=join, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        where.run()
        for thread in threads:
            thread.join(60)
    assert len(raised) == 2
    for said in raised:
        assert said.startswith(f"All processes have met at {address}, but the job cannot begin: JAX's service does not")
        assert "Choose another port" in said


def test_a_coordinator_that_dies_while_they_meet_ends_process_zero_at_once():
    with coordinator() as (address, process):
        killing = threading.Timer(1.0, process.kill)
        killing.start()
        with pytest.raises(RuntimeError, match=r"The coordinator of this job at .* ended with exit code -9 before all"):
            Connection(member(address, 0), 10_000.0, SECRET, process.poll)
        killing.join()


def test_nothing_that_a_process_of_the_job_says_ends_the_coordinator():
    with coordinator() as (address, process):
        for said in SAID:
            connection, lines = connect(address)
            with connection:
                connection.sendall(introduction(index=1))
                hear(connection, lines, "waiting_for")
                connection.sendall(wire.encode_message(**said))
                with contextlib.suppress(ConnectionError):
                    while connection.recv(1000):
                        pass
            assert process.poll() is None, said
        assert meet_all(address) == [(socket.gethostname(),) * 2] * 2


def test_a_line_of_the_coordinators_that_is_none_ends_the_connection():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(1.0)
        line = Connection.__new__(Connection)
        line._connection, line._lines = ours, wire.Lines(wire.LONGEST_BYTES)
        theirs.sendall(wire.encode_message(loss=1) + b"damage\n")
        assert list(line.messages()) == [{"loss": 1}]


def drip(connection):
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"{")
            time.sleep(0.01)


def test_a_name_with_several_addresses_on_this_host_means_the_first_to_both_sides(monkeypatch):
    """Another user's program may listen at the second."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.3", "127.0.0.1")]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *_, **__: found if host == "localhost" else real(host, *_, **__)
    )
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        address = f"localhost:{squatter.getsockname()[1]}"
        with pytest.raises(TimeoutError, match="Connection refused"):
            Connection(member(address, 1), 0.5, SECRET)
        process = start_coordinator(member(address, 0), SECRET)
        try:
            assert meet_all(address) == [(socket.gethostname(),) * 2] * 2
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("index", [2, -1, 1.0, True, None, "1", [1]])
def test_an_index_beyond_the_job_is_refused(index):
    with coordinator() as (address, _):
        connection, lines = connect(address)
        connection.sendall(introduction(index=index))
        assert "has processes 0 to 1, each once, and not a process" in hear(connection, lines, "refused")["refused"]


def test_a_coordinator_without_the_secret_is_not_believed():
    """It may have taken the port before process 0 came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def pretend():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(wire.encode_message(nonce="0" * 64))
                    connection.recv(1000)
                    connection.sendall(wire.encode_message(proof="0" * 64) + wire.encode_message(hosts=["a", "b"]))

        threading.Thread(target=pretend, daemon=True).start()
        with pytest.raises(TimeoutError, match=r"did not answer at .* \(it has another secret than this process\)"):
            Connection(member(address, 1), 2.0, SECRET)


def test_a_process_with_another_secret_is_told_so(monkeypatch):
    monkeypatch.setattr("podrl.runtime.job.connection._SECRET_S", 0.0)
    other = b"of another job, or mistyped"
    with coordinator() as (address, _):
        connection, lines = connect(address)
        connection.sendall(introduction(index=0))
        with pytest.raises(ConfigError) as error:
            Connection(member(address, 1), 60.0, other)
        assert "it does not have the job's secret" in hear(connection, lines, "last")["last"]
    assert f"This is process 1, and what answers at {address} has another job secret." in str(error.value)
    assert f"Give all processes of a job the same {VARIABLE}, or the same {FILE_VARIABLE};" in str(error.value)
    assert other.decode() not in str(error.value)


def test_another_secret_now_and_then_is_no_mistake(monkeypatch):
    """But one that lasts: a job of before may be about to end."""
    outcomes = itertools.cycle([UnprovenError(), ConnectionError()])

    def prove(*_):
        raise next(outcomes)

    monkeypatch.setattr("podrl.runtime.job.connection._SECRET_S", 0.3)
    monkeypatch.setattr("podrl.runtime.job.connection._RETRY_S", 0.2)
    monkeypatch.setattr("podrl.runtime.job.connection.prove_both", prove)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TimeoutError, match="did not answer at"):
        Connection(member("{}:{}".format(*server.getsockname()), 1), 1.0, SECRET)


def test_the_secret_is_in_no_arguments_and_the_coordinator_ends_with_process_zero():
    address, secret = free_address(), make_secret()
    waiting = Member(address, 2, 0, 60, "wait", secret=secret)
    try:
        wait_for(lambda: coordinators(address))
        for process in (waiting.process.pid, *coordinators(address)):
            assert secret not in Path(f"/proc/{process}/cmdline").read_text()
    finally:
        waiting.kill()
    wait_for(lambda: not coordinators(address))  # Though it may not have begun when process 0 was killed.


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    result = launch(*SCRIPTED, "--local_processes=2", "--workdir", "run", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_a_job_under_attack_meets_trains_and_comes_to_the_same(straight, tmp_path, seed):
    """While it meets at the coordinator, and then while it trains at JAX's service, by what is no message of gRPC's."""
    address, gate = free_address(), tmp_path / "gate"
    held = {"only_in_pool": 3, "hang_at_step": 1, "hang_until": str(gate)}
    options = [f"--config.env.options.{name}={value}" for name, value in held.items()]
    where = (
        "--coordinator",
        address,
        "--process_count",
        2,
        "--workdir",
        "run",
        "--join_timeout_s=250",
        *LIMITS,
        *options,
    )
    with running(*SCRIPTED, *where, "--process_index", 0, cwd=tmp_path) as first:
        wait_for(lambda: coordinators(address), first)
        assert attack(address, MESSAGES, seed=seed) > 0.9 * MESSAGES
        with running(*SCRIPTED, *where, "--process_index", 1, cwd=tmp_path) as second:
            wait_for(lambda: num_rows(tmp_path / "run") >= 4, second)
            assert attack(address, MESSAGES, seed=seed + 1) > 0.9 * MESSAGES
            gate.touch()
            attack(address, MESSAGES // 10, seed=seed + 2, until=lambda: second.poll() is not None)
            said = finish(second)
            assert second.returncode == 0, said
        assert "did not prove to be of this job" in finish(first)
        assert first.returncode == 0
    assert_same(tmp_path / "run", straight, SCRIPTED)
