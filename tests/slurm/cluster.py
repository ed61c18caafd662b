"""A real SLURM of two nodes on this machine: to submit jobs to, and to cut a node's power.

It has a controller, two nodes with ports of their own and an authentication service of its own; nothing of it is shared
with a SLURM that may be installed here for other ends. Wants to be root.
"""

from collections.abc import Callable, Collection, Sequence
import contextlib
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tempfile
import time
from types import TracebackType

from tests.processes import LIMIT_S, environment
from tests.slurm.configuration import make_configuration
from tests.slurm.hostnames import HOSTS, resolvable

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "scancel")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_POLL_S = 0.1
_LOG_LINES = 15  # of each log, where something failed


def why_not() -> str | None:
    """Why there can be no cluster here, in one line; None if there can."""
    absent = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)} not found): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "a SLURM of its own wants root"
    return None if os.access(HOSTS, os.W_OK) else f"{HOSTS} cannot be written"


class Cluster:
    """A context manager: the cluster runs within it, and no process of it outlives it.

    Attributes:
        nodes: names of the nodes.
        environ: what SLURM's commands want; jobs inherit it.
    """

    def __init__(self) -> None:
        """Starts nothing yet."""
        self.nodes = tuple(f"podrl{os.getpid()}-{number}" for number in (1, 2))
        self.environ = {
            name: value for name, value in environment().items() if not name.startswith(("SLURM", "SBATCH"))
        } | {"PATH": _PATH}
        self._exits = contextlib.ExitStack()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        """Starts it, and waits until both nodes are idle."""
        with contextlib.ExitStack() as exits:
            # Not in pytest's folder: sockets' paths may have 107 characters.
            self._folder = Path(tempfile.mkdtemp(prefix="slurm-"))
            exits.callback(shutil.rmtree, self._folder, ignore_errors=True)
            exits.enter_context(resolvable(self.nodes))
            exits.callback(self._stop)
            self._start()
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def call(self, *command: str | Path, cwd: Path | None = None) -> str:
        """What one of SLURM's commands (`srun`, `squeue`) says on stdout; it must succeed within `LIMIT_S`."""
        result = subprocess.run(
            list(map(str, command)), cwd=cwd, env=self.environ, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert result.returncode == 0, f"{command} ended with {result.returncode}: {result.stderr}\n{self.logs()}"
        return result.stdout

    def submit(self, script: Path, *options: str) -> int:
        """Submits a script with `sbatch`, in its own folder, and returns the job's number.

        Args:
            script: the file.
            options: of sbatch, before the script.
        """
        reply = self.call("sbatch", "--parsable", *options, script, cwd=script.parent)
        return int(reply.partition(";")[0])

    def state(self, job: int) -> str:
        """SLURM's word, such as `PENDING`, `RUNNING`, `COMPLETING`, `COMPLETED`, `FAILED`, `NODE_FAIL`."""
        return self._fact(job, "JobState")

    def restarts(self, job: int) -> int:
        """How often it was requeued."""
        return int(self._fact(job, "Restarts"))

    def wait_for_state(
        self, job: int, states: Collection[str], limit_s: float = LIMIT_S, *, restarts: int | None = None
    ) -> str:
        """Waits until a job is in one of `states`, and returns it.

        Args:
            job: its number.
            states: SLURM's words for them.
            limit_s: seconds to wait at most.
            restarts: how often it must have been requeued by then; None for any number.
        """

        def arrived() -> bool:
            return self.state(job) in states and restarts in (None, self.restarts(job))

        def found() -> str:
            return f"job {job} is {self.state(job)} after {self.restarts(job)} restarts:\n{self.output(job)}"

        self._wait(arrived, f"{'/'.join(states)} (restarts: {restarts})", found, limit_s)
        return self.state(job)

    def wait_for_output(self, job: int, text: str, limit_s: float = LIMIT_S) -> None:
        """Waits until a job has written `text`."""
        self._wait(
            lambda: text in self.output(job),
            f"{text!r}",
            lambda: f"job {job} is {self.state(job)} and wrote:\n{self.output(job)}",
            limit_s,
        )

    def output(self, job: int) -> str:
        """What a job has written to stdout so far; empty before it runs."""
        path = Path(self._fact(job, "StdOut"))
        return path.read_text() if path.exists() else ""

    def start_soon(self, job: int) -> None:
        """Lets a requeued job start, which else is held back for a while.

        Not in this second: nodes refuse a job in the second in which it was requeued ("Job credential revoked").
        """
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def kill_node(self, name: str, *, noticed: bool = True) -> None:
        """Kills all processes of a node, its jobs' included.

        Args:
            name: of the node.
            noticed: whether SLURM is told at once, which by itself it notices `SlurmdTimeout` later (five minutes).
                Then jobs that can be requeued are, and the others fail.
        """
        _end(self._daemons.pop(name))
        if noticed:
            self.mark_down(name)

    def mark_down(self, name: str) -> None:
        """Tells SLURM that a node is dead."""
        self.call("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=killed")

    def restart_node(self, name: str) -> None:
        """Starts a killed node, and waits until it takes jobs."""
        assert name not in self._daemons, f"{name} runs"
        self._start_node(name)
        self._wait_for_nodes([name])

    def logs(self) -> str:
        """The last lines of what the daemons say."""
        texts = {path.stem: path.read_text(errors="replace") for path in sorted(self._folder.glob("*.log"))}
        return "\n".join("\n".join([f"-- {name}:", *text.splitlines()[-_LOG_LINES:]]) for name, text in texts.items())

    def _start(self) -> None:
        configuration = self._folder / "slurm.conf"
        configuration.write_text(make_configuration(self._folder, self.nodes))
        self.environ["SLURM_CONF"] = str(configuration)
        (self._folder / "state").mkdir()
        key, socket = self._folder / "munge.key", self._folder / "munge.sock"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        places = {"socket": socket, "key-file": key} | {
            name: self._folder / f"munge.{name}" for name in ("pid-file", "log-file", "seed-file")
        }
        # It is asked to accept that all users may write to /tmp.
        self._start_daemon("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in places.items()))
        self._wait(socket.exists, "munged")
        self._start_daemon("slurmctld", "-D")
        for node in self.nodes:
            self._start_node(node)
        self._wait_for_nodes(self.nodes)

    def _start_node(self, name: str) -> None:
        self._start_daemon("slurmd", "-D", "-N", name, called=name)

    def _start_daemon(self, *command: str, called: str | None = None) -> None:
        name = called or command[0]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("host.py")), *command],
                env=self.environ,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop the cluster.
            )

    def _wait_for_nodes(self, names: Sequence[str]) -> None:
        wanted = dict.fromkeys(names, "idle")
        self._wait(
            lambda: wanted.items() <= self._node_states().items(), "idle nodes", lambda: str(self._node_states())
        )

    def _node_states(self) -> dict[str, str]:
        """Every node's state; none while the controller does not answer."""
        result = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%N %T"],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        return dict(line.split() for line in result.stdout.splitlines())

    def _fact(self, job: int, name: str) -> str:
        text = self.call("scontrol", "show", "job", str(job))
        found = re.search(rf"\b{name}=(\S*)", text)
        assert found, f"{name} is not in: {text}"
        return found[1]

    def _wait(
        self,
        condition: Callable[[], bool],
        wanted: str,
        found: Callable[[], str] = lambda: "not yet",
        limit_s: float = LIMIT_S,
    ) -> None:
        """Polls until `condition` holds, for at most `limit_s`, while all daemons run."""
        deadline = time.monotonic() + limit_s
        while not condition():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            assert not ended, f"Waited for {wanted}, but {ended} ended.\n{self.logs()}"
            assert time.monotonic() < deadline, f"Waited {limit_s:g} s for {wanted}; {found()}\n{self.logs()}"
            time.sleep(_POLL_S)

    def _stop(self) -> None:
        for name in reversed(list(self._daemons)):
            _end(self._daemons.pop(name))


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """Ends a daemon and all that it started."""
    daemon.terminate()
    daemon.wait(LIMIT_S)
