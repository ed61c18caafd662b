"""Runs the processes of one job: starts them, relays their output, passes signals on, and ends them with the launcher.

Each has a process group of its own, so that a terminal's Ctrl-C reaches the launcher alone, which passes it on once. On
Linux the kernel kills members whose launcher has ended, for whatever reason: none is left behind.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time

from absl import logging

from podrl.config.config import MISTAKE, ConfigError
from podrl.launch.end_pipe import EndPipe
from podrl.launch.job_end import JobEnd, describe_end, kind_of_end, rank_of_end
from podrl.launch.preparation import preparation
from podrl.launch.relay import Relay
from podrl.launch.signals import StopSignals
from podrl.runtime.container_limits import LimitReached, explain_limit
from podrl.runtime.streams import binary_of
from podrl.runtime.waiting import Patience
from podrl.runtime.watchdog import STALLED

_POLL_S = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A process of the job.

    Attributes:
        name: prefix of its lines, `[name] `, unless they start with `[name ` already.
        command: the program and its arguments.
        environ: environment variables in addition to the launcher's, among them the job's secret.
        cores: cores that it may use; empty for all.
        codes: meanings of some of its exit codes, as other exit codes.
        tells_end: whether it reports the end of its run (`podrl.runtime.process_exit`): then exit code 0 alone does not
            count.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    cores: tuple[int, ...] = ()
    codes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    tells_end: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Time limits for members to end, in seconds.

    Attributes:
        after_failure_s: time after another's failure until they get SIGTERM; they notice by themselves within a minute.
        after_finish_s: time after another ended with exit code 0 until they get SIGTERM.
        after_stop_s: time after a signal from the user until they are killed.
        after_sigterm_s: time after the launcher's own SIGTERM until they are killed.
    """

    after_failure_s: float = 90.0
    after_finish_s: float = 600.0
    after_stop_s: float = 600.0
    after_sigterm_s: float = 60.0


def run_members(
    members: Sequence[Member],
    stop: StopSignals,
    *,
    limits: Limits | None = None,
    send: Callable[[signal.Signals], None] | None = None,
) -> JobEnd:
    """Runs members to their end and relays their output, line by line.

    A single member gets this process's own output, a terminal if it is one, unless that is a notebook's. SIGINT and
    SIGTERM go to all members, once; after a later one, they are killed. When a member fails, the others get time to
    notice. Call it in the main thread: members end with the thread that started them.

    Args:
        members: the members, at least one.
        stop: catches the launcher's signals.
        limits: time limits for members to end.
        send: passes a signal on, if that takes more than signalling these processes.

    Returns:
        The exit code of the first member that failed; if none did, that of a member that was told to stop; otherwise 0.

    Raises:
        ConfigError: if a program cannot be started.
    """
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(Relay())
        job = _Job(stop, limits or Limits(), relay, send)
        stack.callback(job.close)
        for member in members:
            job.start(member, alone=len(members) == 1)
        while job.is_running():
            job.look(_POLL_S)
        return job.ending()


class _Job:
    """The processes of one start, and how they ended."""

    def __init__(
        self, stop: StopSignals, limits: Limits, relay: Relay, send: Callable[[signal.Signals], None] | None
    ) -> None:
        self._stop = stop
        self._limits = limits
        self._relay = relay
        self._send_on = send
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._codes: dict[str, Mapping[int, int]] = {}
        self._ends: dict[str, EndPipe] = {}  # Pipes of members that report the end of their run.
        self._ending: JobEnd | None = None
        self._ended: list[int] = []  # Exit codes.
        self._phase = ""  # Why members should end: finish, failure, stop, sigterm; later ones take precedence.
        self._patience = Patience(0)

    def start(self, member: Member, *, alone: bool) -> None:
        output = None if alone and binary_of(sys.stdout) is not None else subprocess.PIPE
        # Two pipes into one terminal or file would mix up the order of lines.
        errors = subprocess.STDOUT if output and os.path.sameopenfile(1, 2) else output
        # A notebook asks for colours, which would make a pipe count as a terminal with a panel.
        shell = {name: value for name, value in os.environ.items() if output is None or name != "FORCE_COLOR"}
        end = self._ends[member.name] = EndPipe(member.tells_end)
        try:
            process = subprocess.Popen(
                member.command,
                env={**shell, **member.environ, **end.environ},
                pass_fds=end.to_pass,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                process_group=0,
                preexec_fn=preparation(member.cores),
            )
        except OSError as error:
            if limit := explain_limit(error):
                raise LimitReached(limit) from None
            raise ConfigError(f"{member.command[0]} cannot be started: {error.strerror}.") from None
        finally:
            end.keep_reading()
        self._running[member.name] = process
        self._codes[member.name] = member.codes
        for pipe, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            if pipe is not None:
                self._relay.add(pipe, member.name, target)

    def is_running(self) -> bool:
        return bool(self._running)

    def look(self, timeout_s: float) -> None:
        """Relays output and signals, records ended processes, and ends those that take too long."""
        if self._relay.listens:
            self._relay.pass_on(timeout_s)
        else:
            time.sleep(timeout_s)
        self._note_ends()
        self._pass_pause_on()
        self._hurry()

    def ending(self) -> JobEnd:
        while self._relay.pass_on(0):
            pass
        ending = self._ending or JobEnd(code=0, text="")
        if self._stop.exit_code is not None and ending.code > 128:  # Killed on the user's request.
            return JobEnd(code=self._stop.exit_code, text=ending.text)
        if len(self._ended) > 1 and set(self._ended) == {MISTAKE}:  # Not the first one's mistake alone.
            return JobEnd(code=MISTAKE, text=f"all {len(self._ended)} processes ended with it")
        return ending

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        for process in self._running.values():
            process.wait()
        for end in self._ends.values():
            end.close()

    def _note_ends(self) -> None:
        ended = {
            name: self._code(name, process) for name, process in self._running.items() if process.poll() is not None
        }
        for name, code in sorted(ended.items(), key=lambda item: rank_of_end(item[1])):
            del self._running[name]
            self._ended.append(code)
            if self._ending is None or kind_of_end(code) < kind_of_end(self._ending.code):
                self._ending = JobEnd(code=128 - code if code < 0 else code, text=describe_end(name, code))

    def _code(self, name: str, process: subprocess.Popen[bytes]) -> int:
        """Returns the meaning of an ended process's exit code; 1 if it ended with 0 before its run did."""
        code = process.returncode
        if code == 0 and not self._ends[name].is_told():
            logging.error("%s ended with exit code 0, but its run had not: something in it ended the process.", name)
            code = 1
        return self._codes[name].get(code, code)

    def _pass_pause_on(self) -> None:
        if self._stop.paused:
            self._stop.paused = False
            self._signal(signal.SIGTSTP)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._signal(signal.SIGCONT)

    def _hurry(self) -> None:
        """Tells members to end when it is time, and kills them when their time is over."""
        if self._stop.urgent:
            self._send(signal.SIGKILL)
        elif self._phase not in ("stop", "sigterm") and self._stop.first is not None:
            self._send(self._stop.first)
            self._enter("stop", self._limits.after_stop_s)
        elif self._phase in ("", "finish") and self._ending is not None and self._ending.code:
            self._enter("failure", self._limits.after_failure_s)
        elif not self._phase and self._ending is not None:
            self._enter("finish", self._limits.after_finish_s)
        elif self._phase and self._running and not self._patience.left_s():
            self._lose_patience()

    def _lose_patience(self) -> None:
        names = ", ".join(self._running)
        if self._phase in ("stop", "sigterm"):
            logging.error("Killed %s: not ended within the time limit after being told to.", names)
            self._send(signal.SIGKILL)
            return
        limit_s = self._limits.after_finish_s if self._phase == "finish" else self._limits.after_failure_s
        text = f"{names} still running {limit_s:.0f} s after the first had ended"
        logging.error("%s: sending SIGTERM.", text)
        if self._phase == "finish":
            self._ending = JobEnd(code=STALLED, text=text)
        self._send(signal.SIGTERM)
        self._enter("sigterm", self._limits.after_sigterm_s)

    def _enter(self, phase: str, limit_s: float) -> None:
        self._phase, self._patience = phase, Patience(limit_s)

    def _send(self, signum: signal.Signals) -> None:
        if self._send_on is not None:
            self._send_on(signum)
        if self._send_on is None or signum == signal.SIGKILL:
            self._signal(signum)

    def _signal(self, signum: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
