"""A network of two hosts on this machine, which a test can cut: namespaces of Linux, for which it needs root."""

import contextlib
import os
import shutil
import subprocess

import pytest

_NAMES = "table inet cut { chain in { type filter hook input priority 0; policy drop; }; chain out { %s }; }"
_OUT = "type filter hook output priority 0; policy drop;"


class Network:
    """This host, and another one beside it.

    Attributes:
        here: this host's address.
        there: the other host's.
    """

    def __init__(self, name):
        self._name = name
        number = os.getpid() % 2**14  # Of a network of four addresses, among those for tests of networks.
        first, second = f"198.18.{number >> 6}.", (number & 63) * 4
        self.here, self.there = f"{first}{second + 1}", f"{first}{second + 2}"

    def make(self):
        _run("ip", "netns", "add", self._name)
        ends = ("ip", "link", "add", f"{self._name}h", "type", "veth", "peer", "name", "eth0", "netns", self._name)
        _run(*ends)
        _run("ip", "addr", "add", f"{self.here}/30", "dev", f"{self._name}h")
        _run("ip", "link", "set", f"{self._name}h", "up")
        for setting in (("addr", "add", f"{self.there}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _run("ip", "-n", self._name, *setting)
        self.cut()
        self.mend()

    def remove(self):
        subprocess.run(["ip", "netns", "del", self._name], capture_output=True)
        subprocess.run(["ip", "link", "del", f"{self._name}h"], capture_output=True)

    def command(self, *command):
        """What runs a command on the other host."""
        return ["ip", "netns", "exec", self._name, *map(str, command)]

    def cut(self):
        """The other host drops whatever comes and goes, without a word."""
        _run(*self.command("nft", _NAMES % _OUT))

    def mend(self):
        _run(*self.command("nft", "delete table inet cut"))


@contextlib.contextmanager
def network():
    """A network, or a test that is skipped."""
    if os.geteuid() or not (shutil.which("ip") and shutil.which("nft")):
        pytest.skip("a network of its own needs root, iproute2 and nftables")
    made = Network(f"podrl{os.getpid()}")
    try:
        try:
            made.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network of its own can be made here: {error.stderr.strip()}")
        yield made
    finally:
        made.remove()


def _run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)
