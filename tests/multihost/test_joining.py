"""Real processes meet, agree, and lose each other; each fault is a real one."""

import contextlib
import inspect
import json
import os
import signal
import socket
import sys
import threading
import time

import pytest

from podrl.runtime.job import wire
from podrl.runtime.job.addresses import split_address
from podrl.runtime.job.connection import Connection
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.handshake import prove_both
from podrl.runtime.job.joining import join
from tests.multihost.jobs import SECRET, Member, coordinators, free_address, ip, job, two_hosts
from tests.processes import LIMIT_S, wait_for


def errors(lines):
    """Lines of errors; nothing of what the runtime prints when it aborts may be among them."""
    assert not [
        line for line in lines if "Check failure" in line or "Terminating process" in line or "terminate" in line
    ]
    return [line for line in lines if "rror: " in line or "ERROR" in line]


def stop_coordinator(address):
    (process,) = coordinators(address)
    os.kill(process, signal.SIGSTOP)


@pytest.fixture(scope="module", autouse=True)
def in_vain(request):
    """Jobs that wait in vain, by the limits that they keep: started first, as those pass while other tests run."""
    if not any("in_vain" in inspect.signature(item.function).parameters for item in request.session.items):
        yield {}
        return
    address = free_address()
    with (
        job(4, "wait", address=address, missing=(1, 2, 3)) as first,
        job(2, "wait", timeout_s=5, missing=(0,)) as lonely,
        job(2, "patience") as impatient,
    ):
        first[0].wait_for("begins")
        second = Member(address, 4, 2, 10, "wait")
        try:
            yield {"join": [*first, second], "reach": lonely, "exchange": impatient}
        finally:
            second.kill()


@pytest.fixture(scope="module")
def standing_still():
    """Jobs of which something was stopped or is held: started together, so that their limits pass at the same time."""
    with contextlib.ExitStack() as stack:
        addresses = {name: free_address() for name in ("coordinator", (0,), (1, 2))}
        jobs = {name: stack.enter_context(job(3, "wait", address=addresses[name])) for name in addresses}
        jobs["fails"] = stack.enter_context(job(3, "fail", "0"))
        jobs["held"] = stack.enter_context(job(2, "hold_interpreter"))
        for name, address in addresses.items():
            for member in jobs[name]:
                member.wait_for("waits")
            if name == "coordinator":
                stop_coordinator(address)
                continue
            for victim in name:
                jobs[name][victim].process.send_signal(signal.SIGSTOP)
        addresses["alone"] = free_address()
        jobs["alone"] = stack.enter_context(job(3, "wait", address=addresses["alone"], missing=(1, 2), timeout_s=14))
        wait_for(lambda: coordinators(addresses["alone"]))
        stop_coordinator(addresses["alone"])
        yield jobs, addresses


def test_processes_exchange_values_and_leave_in_good_order():
    address = free_address()
    with job(3, "exchange", address=address) as members:
        for index, member in enumerate(members):
            code, results, lines = member.end()
            assert (code, errors(lines)) == (0, [])
            assert results["joined"] == [socket.gethostname()] * 3
            assert results["first"] == [f"hello from {process}" for process in range(3)]
            assert results["second"] == ["0", "1", "2"]
            assert results["received"] == f"from {(index + 1) % 3}"
            assert results["sum"] == 9
            assert results["left"]
        wait_for(lambda: not coordinators(address))


@pytest.mark.parametrize(
    "variable", ["http_proxy", *(pytest.param(name, marks=pytest.mark.slow) for name in ("https_proxy", "grpc_proxy"))]
)
def test_no_connection_of_a_job_goes_through_a_proxy(monkeypatch, variable):
    """The variables stay, for environments, loggers and storage."""
    proxy = f"http://{free_address()}"  # Nobody listens there.
    monkeypatch.setenv(variable, proxy)
    monkeypatch.setenv("no_proxy", "example.org")
    with job(2, "exchange") as members:
        for member in members:
            code, results, lines = member.end()
            assert (code, errors(lines)) == (0, [])
            assert {variable: proxy, "no_proxy": "example.org"}.items() <= results["proxies"].items()


def test_a_job_of_one_has_nobody_to_wait_for():
    alone = join(find_membership({}, metadata=lambda key: None), 1, {})
    assert (alone.process_index, alone.process_count, alone.hosts) == (0, 1, (socket.gethostname(),))
    assert alone.exchange("greetings", "hello", 1) == ["hello"]
    alone.send("word", "to myself")
    assert alone.receive(0, "word", 1) == "to myself"
    assert alone.explain_loss(1) is None
    alone.fail("nobody hears it", 1)
    alone.leave(0)


@pytest.mark.slow
def test_a_name_that_nobody_knows_is_a_mistake():
    with job(2, "wait", missing=(0,), address="no-such-host.invalid:41234") as members:
        code, _, lines = members[0].end()
        (line,) = errors(lines)
        assert code == 2
        assert "podrl: error: --coordinator=no-such-host.invalid:41234, where" in line
        assert "Give the address of process 0's host" in line
        assert any("Waiting for process 0 at no-such-host.invalid:41234 (" in said for said in lines)


@pytest.mark.slow
def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with job(2, "wait", missing=(1,), address=f"127.0.0.1:{port}") as members:
            code, _, lines = members[0].end()
    (line,) = errors(lines)
    assert code == 2
    assert f"Port {port} on this host" in line
    assert "is in use by another program, or by a job that ended less than 10 minutes ago" in line
    assert "Choose another port: --coordinator=HOST:PORT, the same for all processes." in line


def test_two_processes_of_the_same_index_are_told_apart():
    address = free_address()
    with job(3, "exchange", address=address, missing=(2,)) as members:
        twin = Member(address, 3, 1, 300, "exchange")
        try:
            wait_for(lambda: twin.process.poll() is not None or members[1].process.poll() is not None)
            one, other = (twin, members[1]) if twin.process.poll() is not None else (members[1], twin)
            code, _, lines = one.end()
            (line,) = errors(lines)
            assert code == 2
            assert "This is process 1, but the job at 127.0.0.1:" in line
            assert f"already has a process 1, on {socket.gethostname()}" in line
            last = Member(address, 3, 2, 300, "exchange")
            try:
                assert [member.end()[0] for member in (members[0], other, last)] == [0, 0, 0]
            finally:
                last.kill()
        finally:
            twin.kill()


def test_a_process_that_counts_otherwise_is_refused():
    address = free_address()
    with job(3, "wait", address=address, missing=(1, 2)):
        other = Member(address, 2, 1, 300, "wait")
        try:
            code, _, lines = other.end()
        finally:
            other.kill()
    assert code == 2
    assert "counts 3 processes, not 2" in errors(lines)[0]


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_when_one_is_killed_the_others_end_and_name_it(victim):
    address = free_address()
    with job(3, "wait", address=address) as members:
        for member in members:
            member.wait_for("waits")
        members[victim].kill()
        for member in members[:victim] + members[victim + 1 :]:
            code, results, lines = member.end()
            (line,) = errors(lines)
            assert code == 1
            assert f"Process {victim} ({socket.gethostname()}) was lost: it was killed, or crashed." in line
            assert results["on_loss"]
    wait_for(lambda: not coordinators(address))


@pytest.mark.slow
@pytest.mark.parametrize("victims", [(0,), (1, 2)])
def test_when_some_are_stopped_the_others_end_and_name_one_and_the_port_is_free_soon(standing_still, victims):
    jobs, addresses = standing_still
    for member in [member for index, member in enumerate(jobs[victims]) if index not in victims]:
        code, _, lines = member.end()
        (line,) = errors(lines)
        assert code == 1
        stuck = [f"Process {victim} ({socket.gethostname()}) is stuck: it has sent no" in line for victim in victims]
        assert any(stuck)
        assert "heartbeat for 40 s." in line
    if len(victims) > 1:  # Not as long as for those that are only slow.
        wait_for(lambda: not coordinators(addresses[victims]))


@pytest.mark.slow
def test_one_that_stands_still_for_25_seconds_is_not_lost():
    """As on a busy machine, or one that is moved. JAX aborts a process at its first heartbeat after it was given up."""
    with job(2, "wait") as members:
        for member in members:
            member.wait_for("waits")
        time.sleep(3.0)
        members[1].process.send_signal(signal.SIGSTOP)
        time.sleep(25.0)
        members[1].process.send_signal(signal.SIGCONT)
        time.sleep(16.0)  # Until after its next heartbeat.
        members[0].kill()
        code, _, lines = members[1].end()
        (line,) = errors(lines)
        assert code == 1
        assert f"Process 0 ({socket.gethostname()}) was lost: it was killed, or crashed." in line


@pytest.mark.slow
def test_when_a_host_is_cut_off_both_sides_end():
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(two_hosts())
        members = []
        for index, host in enumerate(hosts):
            within = ("ip", "netns", "exec", host)
            members.append(Member("10.77.0.1:41234", 2, index, 300, "wait", within=within))
            stack.callback(members[-1].kill)
        for member in members:
            member.wait_for("waits")
        ip("-n", hosts[0], "link", "set", "cable", "down")
        (code0, _, lines0), (code1, _, lines1) = [member.end() for member in members]
        assert (code0, code1) == (1, 1)
        assert f"Process 1 ({socket.gethostname()}) was lost: its host does not answer any more." in errors(lines0)[0]
        assert f"The coordinator beside process 0 ({socket.gethostname()}) has not answered" in errors(lines1)[0]


@pytest.mark.slow
def test_when_the_coordinator_is_stopped_all_end_and_say_so(standing_still):
    jobs, addresses = standing_still
    for member in jobs["coordinator"]:
        code, results, lines = member.end()
        (line,) = errors(lines)
        assert code == 1
        assert f"The coordinator beside process 0 ({socket.gethostname()}) has not answered for 12 s" in line
        assert results["on_loss"]
    wait_for(lambda: not coordinators(addresses["coordinator"]))


@pytest.mark.slow
def test_a_coordinator_that_is_stopped_while_they_meet_is_named(standing_still):
    jobs, addresses = standing_still
    address = addresses["alone"]
    code, _, lines = jobs["alone"][0].end()
    (line,) = errors(lines)
    assert code == 124
    assert f"The coordinator at {address}, a small process beside process 0, was reached, but does not answer" in line
    wait_for(lambda: not coordinators(address))


def test_one_that_is_lost_before_jax_has_connected_is_named():
    address = free_address()
    with job(2, "wait", address=address, missing=(1,)) as members:
        wait_for(lambda: coordinators(address))
        with socket.create_connection(split_address(address)) as connection:
            prove_both(connection, SECRET.encode(), 30.0)
            connection.sendall(json.dumps({"index": 1, "count": 2, "host": "node2", "job": ""}).encode() + b"\n")
            assert any(b"hosts" in line for line in connection.makefile("rb"))
        code, _, lines = members[0].end()
        (line,) = errors(lines)
        assert code == 1
        assert "Process 1 (node2) was lost: it was killed, or crashed." in line


def test_what_the_coordinator_says_in_one_breath_is_heard_one_by_one():
    """A process that is lost as soon as all have met may be told of together with who has come."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            introduce(connection, b'{"loss": 1}\n')

        threading.Thread(target=answer, daemon=True).start()
        membership = find_membership(
            {}, coordinator=f"127.0.0.1:{server.getsockname()[1]}", process_count=2, process_index=1
        )
        line = Connection(membership, 30.0, SECRET.encode())
        assert line.hosts == ("node1", "node2")
        assert next(line.messages()) == {"loss": 1}
        line.close()


def test_a_process_that_jaxs_service_does_not_take_ends_before_jax_aborts_it():
    """A coordinator that says that all have met, where no service listens."""
    impatient = "import sys\nfrom podrl.runtime.job import job\njob.CONNECT_S = 2.0\n"
    run = "from tests.multihost import member\nmember.main(*sys.argv[1:])"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = (sys.executable, "-c", impatient + run)
        member = Member(address, 2, 1, 60, "wait", command=command)
        try:
            server.settimeout(LIMIT_S)
            connection, _ = server.accept()
            server.close()
            connection.settimeout(LIMIT_S)
            introduce(connection)
            code, results, lines = member.end()
        finally:
            member.kill()
    (line,) = errors(lines)
    assert (code, "joined" in results) == (124, False)
    assert "Process 1 (node2) has met the others, but JAX's service beside process 0 (node1) did not take it" in line


def introduce(connection, more=b""):
    """Answers a process of `SECRET` as the coordinator does when all have met, and says more in the same breath."""
    ours = wire.make_nonce()
    connection.sendall(wire.encode_message(nonce=ours))
    theirs = wire.parse_message(connection.recv(1000))["nonce"]
    connection.sendall(wire.encode_message(proof=wire.prove(SECRET.encode(), wire.COORDINATOR, ours, theirs)))
    connection.recv(1000)
    connection.sendall(wire.encode_message(hosts=["node1", "node2"]) + more)


def assert_all_end_for_the_reason_of_the_last(members):
    for member in members:
        code, results, lines = member.end()
        assert code == 3
        assert "shuts_down" not in results  # A call to JAX's service that comes back then aborts the process.
        said = [f"Process 2 ({socket.gethostname()}) ended: ValueError: the environment's rewards are not finite"]
        assert [line.partition("ERROR: ")[2] for line in errors(lines)] == (said if member is not members[2] else [])


def test_when_one_says_why_it_ends_the_others_repeat_it_and_its_exit_code():
    with job(3, "fail") as members:
        assert_all_end_for_the_reason_of_the_last(members)


@pytest.mark.slow
def test_so_does_one_that_hears_it_late(standing_still):
    """The coordinator stays for one that holds its interpreter."""
    jobs, _ = standing_still
    assert_all_end_for_the_reason_of_the_last(jobs["fails"])


@pytest.mark.parametrize("holds", ["nobody", pytest.param("0", marks=pytest.mark.slow)])
def test_a_process_that_ends_without_a_word_ends_before_python_shuts_down(holds):
    """As above, where the others were told of no exit code."""
    with job(2, "forget", holds) as members:
        code, results, lines = members[1].end()
        assert code == 1
        assert errors(lines)[-1] == "OSError: no word to the job"
        assert "shuts_down" not in results
        assert "was lost: it was killed, or crashed." in errors(members[0].end()[2])[0]


def test_an_error_of_a_collective_is_explained():
    with job(3, "collective") as members:
        for member in members:
            member.wait_for("waits")
        members[2].kill()
        for member in members[:2]:
            code, results, lines = member.end()
            told = results.get("explained") or " ".join(errors(lines))  # Whichever thread hears of it first.
            assert code == 1
            assert f"Process 2 ({socket.gethostname()}) was lost" in told


@pytest.mark.slow
def test_a_process_whose_interpreter_is_held_is_not_stuck(standing_still):
    jobs, _ = standing_still
    assert [member.end()[0] for member in jobs["held"]] == [0, 0]


def test_facts_that_agree_and_clocks():
    with job(2, "agree", "jax=1,numpy=2", "jax=1,numpy=2") as members:
        for member in members:
            code, results, _ = member.end()
            assert code == 0
            assert 0 <= results["skew_s"] < 60


def test_the_odd_one_out_is_named_in_every_process():
    with job(3, "agree", "jax=0.10.2", "jax=0.10.1", "jax=0.10.2") as members:
        for member in members:
            code, _, lines = member.end()
            (line,) = errors(lines)
            assert code == 2
            expected = f"Process 1 ({socket.gethostname()}) has jax 0.10.1, the others have 0.10.2. Install the same"
            assert expected in line


def test_a_workdir_that_all_share(tmp_path):
    with job(2, "workdir", tmp_path / "run", tmp_path / "run") as members:
        assert [member.end()[0] for member in members] == [0, 0]
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.slow
def test_a_workdir_that_one_does_not_see(tmp_path):
    with job(2, "workdir", tmp_path / "run", tmp_path / "other") as members:
        for member in members:
            code, _, lines = member.end()
            (line,) = errors(lines)
            assert code == 2
            assert (
                f"process 1 ({socket.gethostname()}) does not see what process 0 writes there. Choose a folder" in line
            )


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with job(2, "workdir", tmp_path / "file/run", tmp_path / "file/run") as members:
        for member in members:
            code, _, lines = member.end()
            (line,) = errors(lines)
            assert code == 2
            assert f"process 0 ({socket.gethostname()}) cannot write there (Not a directory)" in line


def test_waits_have_limits_and_name_whom_they_waited_for(in_vain):
    host = socket.gethostname()
    assert in_vain["exchange"][0].wait_for("errors") == [
        f"Process 0 ({host}) waited 1 s at 'answers' for process 1 ({host}).",
        f"Process 0 ({host}) waited 1 s for 'word' from process 1 ({host}).",
    ]


def test_one_that_does_not_wait_for_the_last_any_longer_ends_as_it_said(in_vain):
    code, results, lines = in_vain["exchange"][1].end()
    assert code == 75
    assert errors(lines) == []
    assert any("Not all processes are done after 1 s; this one waits no longer." in line for line in lines)
    assert "shuts_down" not in results  # As above.


def test_without_process_zero_the_others_say_so(in_vain):
    code, _, lines = in_vain["reach"][0].end()
    (line,) = errors(lines)
    assert code == 124
    assert "Process 0 did not answer at 127.0.0.1:" in line
    assert "within 5 s (Connection refused)" in line


def test_those_that_wait_name_the_missing(in_vain):
    for member in in_vain["join"]:
        code, _, lines = member.end()
        (line,) = errors(lines)
        assert code == 124
        assert "Processes 1, 3 did not come to 127.0.0.1:" in line
        assert "within 10 s; 2 of 4 processes are there" in line
        assert "raise --join_timeout_s. 127.0.0.1 is every host's name for itself" in line
