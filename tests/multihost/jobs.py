"""Jobs of several processes on this machine, each running `member.py`; none outlives its test."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from podrl.runtime.job.secret import VARIABLE
from tests.processes import LIMIT_S, ROOT, environment

SECRET = "the secret of the tests' jobs"


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


class Member:
    """A process of a job, and what it has printed so far."""

    def __init__(
        self,
        address: str,
        count: int,
        index: int,
        timeout_s: float,
        *action: Any,
        within: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "tests.multihost.member"),
        secret: str = SECRET,
        environ: Mapping[str, str] | None = None,
    ):
        self.process = subprocess.Popen(
            [*within, *command, address] + [str(argument) for argument in (count, index, timeout_s, *action)],
            cwd=ROOT,
            env={**environment(), "JAX_PLATFORMS": "cpu", VARIABLE: secret, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._changed = threading.Condition()
        self._results: dict[str, Any] = {}
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_results, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def wait_for(self, name: str) -> Any:
        """The result of that name, once it is there."""
        with self._changed:
            there = self._changed.wait_for(lambda: name in self._results or self.process.poll() is not None, LIMIT_S)
            assert there, f"no {name!r} within {LIMIT_S} s"
            assert name in self._results, f"ended without {name!r}: {self._errors}"
            return self._results[name]

    def end(self) -> tuple[int, dict[str, Any], list[str]]:
        """Waits for it to end by itself; returns its exit code, results, and lines of errors."""
        code = self.process.wait(timeout=LIMIT_S)
        for reader in self._readers:
            reader.join(timeout=LIMIT_S)
        return code, self._results, self._errors

    def has_said(self, text: str) -> bool:
        """Whether one of its lines of errors so far has this text."""
        return any(text in line for line in list(self._errors))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read_results(self) -> None:
        for line in self.process.stdout or ():
            with self._changed:
                if line.startswith("{"):
                    self._results |= json.loads(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _read_errors(self) -> None:
        for line in self.process.stderr or ():
            self._errors.append(line.rstrip())


@contextlib.contextmanager
def job(
    count: int, *action: Any, timeout_s: float = LIMIT_S, missing: Sequence[int] = (), address: str = ""
) -> Iterator[list[Member]]:
    """Starts processes 0 to `count - 1`, but for those that are `missing`."""
    address = address or free_address()
    members = [Member(address, count, index, timeout_s, *action) for index in range(count) if index not in missing]
    try:
        yield members
    finally:
        for member in members:
            member.kill()


def named(name: str, hosts: Path, namespace: str = "") -> tuple[str, ...]:
    """A command's beginning that runs the rest on a host of that name, where the file `hosts` is `/etc/hosts`."""
    enter = ("ip", "netns", "exec", namespace) if namespace else ()
    script = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
    return (*enter, "unshare", "--mount", "--uts", "sh", "-c", script, name, str(hosts))


@contextlib.contextmanager
def two_hosts(network: str = "10.77.0.") -> Iterator[tuple[str, str]]:
    """Two network namespaces, as two hosts with a cable between them: 10.77.0.1 and 10.77.0.2. Skips without root."""
    hosts = (f"podrl{os.getpid()}a", f"podrl{os.getpid()}b")
    try:
        for host in hosts:
            ip("netns", "add", host)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("making network namespaces wants root and iproute2")
    try:
        ip("link", "add", "cable", "netns", hosts[0], "type", "veth", "peer", "name", "cable", "netns", hosts[1])
        for number, host in enumerate(hosts, start=1):
            options = ("nodad",) if ":" in network else ()  # Else an address of IPv6 is of no use for a while.
            prefix = 64 if ":" in network else 24
            ip("-n", host, "addr", "add", f"{network}{number}/{prefix}", "dev", "cable", *options)
            for device in ("lo", "cable"):
                ip("-n", host, "link", "set", device, "up")
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def coordinators(address: str) -> list[int]:
    """Process ids of the coordinators that still run at this port."""
    port = f":{address.rpartition(':')[2]}"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = path.read_bytes().decode(errors="replace")
            if "podrl.runtime.job.coordinator_process" in text and port in text:
                found.append(int(path.parent.name))
    return found
