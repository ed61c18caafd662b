"""Where the processes of a job listen, and what they say when they do not reach each other."""

import contextlib
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from podrl.config.config import ConfigError
from podrl.runtime.job.job import Job
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.reachability import choose_address, meet_in_pairs
from tests.multihost.jobs import Member, free_address, ip, named, two_hosts
from tests.processes import ROOT

SECRET = b"a secret of sixteen bytes or more"
RULES = """
table inet podrl {
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    meta l4proto icmp accept
    tcp dport { 41234%s } accept
  }
}
"""
PORTS = (45000, 45100)


class Together(Job):
    """A process that is a thread of this one; `board` is where they exchange values."""

    def __init__(self, index, count, board):
        """The others share the board."""
        super().__init__(Membership(platform="flags", process_index=index, process_count=count), ("host",) * count)
        self._board, self._here = board

    def exchange(self, name, value, timeout_s):
        self._board[name, self.process_index] = value
        self._here.wait(timeout_s)
        return [self._board[name, index] for index in range(self.process_count)]


def meet(addresses, secrets=None):
    """What `meet_in_pairs` returns in each of several processes, or raises."""
    count, found = len(addresses), {}
    board = ({}, threading.Barrier(count))

    def run(index):
        secret = secrets[index] if secrets else SECRET
        try:
            found[index] = meet_in_pairs(Together(index, count, board), addresses[index], secret, 60.0)
        except ConfigError as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[index] for index in range(count)]


def errors(lines):
    return [line for line in lines if "rror: " in line or "ERROR" in line]


@pytest.fixture
def names(tmp_path):
    """Files of hosts' names: two that know each other, and Debian's, where each host's own name is within itself."""
    if shutil.which("unshare") is None:
        pytest.skip("a name of its own for a process wants util-linux")
    own = {1: "10.77.0.1 hosta", 2: "10.77.0.2 hostb"}
    (tmp_path / "none").write_text("127.0.0.1 localhost\n")
    for number, within in ((1, "127.0.1.1 hosta"), (2, "127.0.1.1 hostb")):
        lines = ["127.0.0.1 localhost", within, own[3 - number]]
        (tmp_path / f"debian{number}").write_text("\n".join(lines) + "\n")
    if subprocess.run([*named("x", tmp_path / "none"), "true"], check=False, capture_output=True).returncode:
        pytest.skip("a name of its own for a process wants root")
    return tmp_path


@contextlib.contextmanager
def on_two_hosts(address, hosts, names):
    with contextlib.ExitStack() as stack:
        members = []
        for index, host in enumerate(hosts):
            within = named(("hosta", "hostb")[index], names / f"debian{index + 1}", host)
            members.append(Member(address, 2, index, 300, "exchange", within=within))
            stack.callback(members[-1].kill)
        yield members


def close_ports(host, *but):
    """A firewall that lets only these ports and the coordinator's in."""
    if shutil.which("nft") is None:
        pytest.skip("a firewall wants nftables")
    rules = RULES % "".join(f", {ports}" for ports in but)
    subprocess.run(["ip", "netns", "exec", host, "nft", "-f", "-"], input=rules, text=True, check=True)


def test_all_pairs_of_a_job_are_tried():
    assert meet(["127.0.0.1"] * 12) == [("127.0.0.1", "")] * 12


def test_one_that_has_not_heard_of_all_yet_is_reached(monkeypatch):
    done, exchange = threading.Event(), Together.exchange

    def late(process, name, value, timeout_s):
        if process.process_index == 0 and name == "reached":
            done.set()
        found = exchange(process, name, value, timeout_s)
        if process.process_index == 1 and name == "listeners":
            done.wait(timeout_s)
        return found

    monkeypatch.setattr(Together, "exchange", late)
    assert meet(["127.0.0.1"] * 2) == [("127.0.0.1", "")] * 2


def test_one_that_answers_but_is_of_another_job_is_not_reached():
    found = meet(["127.0.0.1"] * 3, [SECRET, SECRET, b"another secret of some length"])
    said = {line for _, line in found}
    assert len(said) == 1
    (line,) = said
    assert line.startswith("Process 0 (host) does not reach process 2 (host) at 127.0.0.1:")
    assert "(another program answers there); process 1 (host) does not reach process 2 (host) at" in line
    assert "; and 1 more such pairs. Each two processes of a job connect at ports" in line


def test_addresses_of_different_kinds_are_a_mistake():
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    for error in meet(["::1", "127.0.0.1"]):
        assert isinstance(error, ConfigError)
        assert "Process 1 (host) has reached the coordinator from 127.0.0.1, process 0 (host) from ::1;" in str(error)


def test_one_beside_the_coordinator_listens_where_others_reach_it():
    owns = ["127.0.0.1", "127.0.1.1", "::1", "10.88.0.1"]
    code = "from podrl.runtime.job.reachability import choose_address as c; import sys"
    code += "; print({c(own, [own, '10.77.0.2']) for own in sys.argv[1:]})"
    with two_hosts() as hosts:
        ip("-n", hosts[0], "addr", "add", "10.88.0.1/32", "dev", "lo")
        command = ["ip", "netns", "exec", hosts[0], sys.executable, "-c", code, *owns]
        found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert found == "{'10.77.0.1'}\n"


def test_addresses_that_others_reach_are_kept():
    assert choose_address("127.0.0.1", ["127.0.0.1", "127.0.0.1"]) == "127.0.0.1"
    assert choose_address("10.0.0.2", ["10.0.0.1", "10.0.0.2"]) == "10.0.0.2"
    assert choose_address("10.0.0.1", ["10.0.0.1", "10.0.0.1"]) == "10.0.0.1"
    assert choose_address("fd00::1", ["::1", "fd00::1"]) == "fd00::1"


def test_a_host_whose_own_name_nobody_knows(names):
    address, within = free_address(), named("nobody-knows", names / "none")
    with contextlib.ExitStack() as stack:
        members = [Member(address, 2, index, 300, "exchange", within=within) for index in range(2)]
        for member in members:
            stack.callback(member.kill)
        for member in members:
            code, results, lines = member.end()
            assert (code, errors(lines)) == (0, [])
            assert results["joined"] == ["nobody-knows"] * 2
            assert results["sum"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("network", ["10.77.0.", "fd77::"])
def test_hosts_whose_own_names_lead_to_themselves_as_debians_do(names, network):
    for number, name in ((1, "hostb"), (2, "hosta")):
        known = (names / f"debian{number}").read_text().splitlines()[:2]
        (names / f"debian{number}").write_text("\n".join([*known, f"{network}{3 - number} {name}"]) + "\n")
    with two_hosts(network) as hosts, on_two_hosts("hosta:41234", hosts, names) as members:
        for member in members:
            code, results, lines = member.end()
            assert (code, errors(lines)) == (0, [])
            assert results["sum"] == 6


@pytest.mark.slow
def test_a_firewall_that_opens_the_coordinators_port_only_is_named(names):
    with two_hosts() as hosts:
        close_ports(hosts[0])
        with on_two_hosts("10.77.0.1:41234", hosts, names) as members:
            for member in members:
                code, _, lines = member.end()
                (line,) = errors(lines)
                assert code == 124
                assert "Process 1 (hostb) does not reach process 0 (hosta) at 10.77.0.1:" in line
                assert "(no answer). Each two processes of a job connect at ports that their systems choose" in line


@pytest.mark.slow
def test_a_job_can_be_kept_to_some_ports(names):
    with two_hosts() as hosts:
        for host in hosts:
            setting = "net.ipv4.ip_local_port_range={} {}".format(*PORTS)
            command = ["ip", "netns", "exec", host, "sysctl", "-w", setting]
            if subprocess.run(command, check=False, capture_output=True).returncode:
                pytest.skip("the system's own range of ports cannot be set here")
            close_ports(host, "{}-{}".format(*PORTS))
        with on_two_hosts("10.77.0.1:41234", hosts, names) as members:
            assert [member.end()[0] for member in members] == [0, 0]
