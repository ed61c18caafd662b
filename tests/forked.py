"""The launcher as processes that are forked from one that has imported what a run imports.

The imports take as much of a processor's time as all else of a small run. A forked process begins with the launcher's
first line, in an environment, a folder and streams of its own. Only xdist's workers fork; otherwise, and where the
environment would change what is imported, tests start the launcher as a user does.

Forks share the seed of Python's hashes, which orders sets. So there are two processes to fork from, which take turns:
tests that compare runs see what depends on it.
"""

from collections.abc import Mapping
import contextlib
import importlib
import itertools
import os
from pathlib import Path
import pickle
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

_ROOT = Path(__file__).parent.parent
_LIMIT_S = 300.0  # Of the imports.
_IMPORTED = ("podrl.train", "envpool", "podrl.assembly", "podrl.launch.start")
# JAX reads it when it is imported, which is before the fork.
_SET_AGAIN = {"JAX_NUM_CPU_DEVICES": ("jax_num_cpu_devices", int)}
# Other variables that imports read, by how they begin.
_IMPORTS_READ = ("JAX_", "PYTHON", "TF_", "GRPC_", "LD_", "OMP_", "MPL")
_environment: dict[str, str] = {}  # In which what is forked from has imported; empty before that.


def can_fork(env: Mapping[str, str]) -> bool:
    """Whether imports with this environment would have been the same."""

    def read(variables: Mapping[str, str]) -> dict[str, str]:
        names = (name for name in variables if name.startswith(_IMPORTS_READ) and name not in _SET_AGAIN)
        return {name: variables[name] for name in names if name != "PYTHONPATH"}

    return "PYTEST_XDIST_WORKER" in os.environ and read(env) == read(_environment or os.environ)


class Forked:
    """A process as `subprocess.Popen` gives one, as far as tests use it."""

    def __init__(self, args: list[str], *, cwd: str | Path, env: Mapping[str, str], stdout: int, stderr: int) -> None:
        self.args, self.returncode = args, None
        self._channel, theirs = _connect(), []
        pipes = []
        for want in (stdout, stderr):
            if want == subprocess.PIPE:
                ours, given = os.pipe()
                pipes.append(os.fdopen(ours, encoding="utf-8", errors="replace"))
            else:
                given = os.open(os.devnull, os.O_WRONLY)
                pipes.append(None)
            theirs.append(given)
        self.stdout, self.stderr = pipes
        request = pickle.dumps({"args": args[1:], "cwd": str(cwd), "env": dict(env)})
        socket.send_fds(self._channel, [len(request).to_bytes(8, "big")], theirs)
        self._channel.sendall(request)
        for given in theirs:
            os.close(given)
        self.pid = int.from_bytes(_receive(self._channel, 8), "big")

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._channel, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int.from_bytes(_receive(self._channel, 8), "big", signed=True)
            self._channel.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        deadline = None if timeout is None else time.monotonic() + timeout
        texts = {stream: bytearray() for stream in (self.stdout, self.stderr) if stream and not stream.closed}
        with selectors.DefaultSelector() as selector:
            for stream in texts:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready = selector.select(left)
                if not ready:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                for key, _ in ready:
                    read = os.read(key.fd, 1 << 16)
                    texts[key.fileobj] += read
                    if not read:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        said = [texts[each].decode(errors="replace") if each in texts else None for each in (self.stdout, self.stderr)]
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # It has ended since.
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


_servers: list[tuple[subprocess.Popen[bytes], str]] = []
_turn = itertools.cycle(range(2))


def _connect() -> socket.socket:
    """A connection to a process of this worker that forks, which is started first if it is not there."""
    turn = next(_turn)
    if turn == len(_servers):
        _servers.append(_start_server())
    process, address = _servers[turn]
    deadline = time.monotonic() + _LIMIT_S
    while True:
        channel = socket.socket(socket.AF_UNIX)
        try:
            channel.connect(address)
            return channel
        except OSError:
            channel.close()
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _start_server() -> tuple[subprocess.Popen[bytes], str]:
    address = f"{tempfile.mkdtemp(prefix='podrl-forks-')}/socket"
    # A command runs at the top, so that Python ends as it does otherwise.
    code = f"""
import runpy, sys
from tests.forked import serve
serve({address!r}, {os.getpid()})
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    # Without threads of its own a process can be forked at any moment; OpenBLAS would start some.
    if not _environment:
        _environment.update((name, value) for name, value in os.environ.items() if name not in _SET_AGAIN)
    env = {**_environment, "PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1"}
    no_stream = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=_ROOT, env=env, stdin=no_stream, stdout=no_stream
    ), address


def _receive(channel: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = channel.recv(length - len(data))
        if not more:
            raise ConnectionError("The process that forks has ended.")
        data += more
    return data


def serve(address: str, worker: int) -> None:
    """Forks what is asked for until pytest's worker has ended. Returns in each process that is to run a command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _IMPORTED:
        importlib.import_module(name)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{address}.new")
    server.listen()
    os.rename(f"{address}.new", address)
    server.settimeout(1.0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for the processes that watch.
    while os.getppid() == worker:
        try:
            channel, _ = server.accept()
        except TimeoutError:
            continue
        with channel:
            if os.fork() == 0:
                server.close()
                channel.setblocking(True)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return _fork_and_watch(channel)
    shutil.rmtree(Path(address).parent)
    sys.exit()


def _fork_and_watch(channel: socket.socket) -> None:
    """Tells the number of the process that is forked, in which this returns, and its end."""
    size, streams, _, _ = socket.recv_fds(channel, 8, 2)
    request = pickle.loads(_receive(channel, int.from_bytes(size, "big")))
    pid = os.fork()
    if pid == 0:
        return _become(request, streams)
    for stream in streams:
        os.close(stream)
    channel.sendall(pid.to_bytes(8, "big"))
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        channel.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
    os._exit(0)


def _become(request: Mapping[str, Any], streams: list[int]) -> None:
    """Takes over what a process has when it is started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    importlib.import_module("numpy").random.seed()  # As each process has another generator.
    jax = importlib.import_module("jax")
    for name, (key, parse) in _SET_AGAIN.items():
        if name in os.environ:
            jax.config.update(key, parse(os.environ[name]))
    sys.argv = request["args"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
