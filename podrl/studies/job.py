"""One run as a job of its own: started, watched, and ended when it has run for long enough.

The job ends with the study however that goes: on Linux the kernel kills it if the study is killed.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import os
from pathlib import Path
import signal
import subprocess
import time

from absl import logging

from podrl.config.config import ConfigError
from podrl.launch.preparation import preparation
from podrl.launch.signals import StopSignals
from podrl.runtime.waiting import Patience
from podrl.runtime.watchdog import STALLED

_POLL_S = 0.2
_ACCOUNTS = ("podrl: error: ", "The run failed: ")  # How podrl says why a run failed.
_SEND_LIMIT_S = 60.0
_END_S = 700.0  # After SIGTERM; longer than the launcher gives to its processes, and then kills them.


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunCommand:
    """What starts a run."""

    command: Sequence[str]  # with its arguments
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)  # variables on top of the study's own
    # What signals its processes, the signal's name to be added as after `--signal=`; empty where signalling the command
    # does.
    signal_command: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEnd:
    """How a job ended."""

    code: int  # its exit code; negative for the signal that killed it
    had_enough: bool  # whether it was ended because it had run for long enough
    text: str  # its last line, or the one that says why it failed; what was waited for, where it stood still

    @property
    def was_cut(self) -> bool:
        """Whether it was stopped or killed from outside, so that the same command resumes it."""
        return self.code < 0 or self.code in (75, 130) or self.code > 128


def run_job(
    run: RunCommand, log: Path, stop: StopSignals, *, has_enough: Callable[[], bool], silence_s: float
) -> RunEnd:
    """Runs a command to its end; to be called by the main thread.

    Args:
        run: The command.
        log: The file for what it says, after what earlier jobs said.
        stop: The study's signals, which are passed on.
        has_enough: Asked often; ends the job with SIGTERM once it holds.
        silence_s: How long the job may say nothing before it is ended as one that stands still.
    """
    with log.open("ab") as output:
        begin = output.tell()
        try:
            job = subprocess.Popen(
                run.command,
                env={**os.environ, **run.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for the study, which passes it on.
                preexec_fn=preparation(()),
            )
        except OSError as error:
            raise ConfigError(f"{run.command[0]} cannot be started: {error.strerror}.") from None
    watched = _Job(job, log, stop, run.signal_command)
    try:
        why = watched.watch(has_enough, silence_s)
    finally:
        job.kill()
        job.wait()
    if why == "silence":
        return RunEnd(code=STALLED, had_enough=False, text=f"it said nothing for {silence_s:g} s; see {log}")
    return RunEnd(code=job.returncode, had_enough=why == "enough", text=last_word(log, begin))


def last_word(log: Path, begin: int = 0) -> str:
    """The line of a log that says most, from a place on: podrl's own account of a failure, an error, or the last."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    own = [line for line in lines if any(sign in line for sign in _ACCOUNTS)]
    errors = [line for line in lines if "rror:" in line and not line.startswith("srun: error:")]
    return (own or errors or lines or ["it said nothing"])[-1].strip()


@dataclasses.dataclass(frozen=True)
class _Job:
    """A job under way; see `run_job`."""

    process: subprocess.Popen[bytes]
    log: Path
    stop: StopSignals
    signal_command: Sequence[str]

    def watch(self, has_enough: Callable[[], bool], silence_s: float) -> str:
        """Waits for its end, and brings it about; returns why: `ended`, `enough`, `stop` or `silence`."""
        said, patience = -1, Patience(silence_s)
        while self.process.poll() is None:
            if self.stop.paused:
                self._pause()
            if self.stop.first is not None:
                logging.info("Stops the run under way; the same signal again stops it at once.")
                return self._end(self.stop.first, "stop")
            if has_enough():
                return self._end(signal.SIGTERM, "enough")
            if (size := self.log.stat().st_size) != said:
                said, patience = size, Patience(silence_s)
            elif not patience.left_s():
                return self._end(signal.SIGTERM, "silence")
            time.sleep(_POLL_S)
        return "ended"

    def _end(self, signum: signal.Signals, why: str) -> str:
        """Signals it and waits for its end, for a limited time; a second signal of the user's ends the wait."""
        self._send(signum)
        told, patience = self.stop.first is not None, Patience(_END_S)
        while self.process.poll() is None and patience.left_s() and not self.stop.urgent:
            if not told and self.stop.first is not None:
                told = True
                self._send(self.stop.first)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_POLL_S)
        return why

    def _send(self, signum: signal.Signals) -> None:
        """Signals its processes; the command itself if its own way of being signalled fails."""
        if self.signal_command:
            command = [*self.signal_command[:-1], f"{self.signal_command[-1]}{signum.name.removeprefix('SIG')}"]
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(command, check=True, capture_output=True, timeout=_SEND_LIMIT_S)
                return
        self.process.send_signal(signum)

    def _pause(self) -> None:
        """Ctrl-Z: the job pauses, then the study, until it is told to continue."""
        self.stop.paused = False
        self.process.send_signal(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self.process.send_signal(signal.SIGCONT)
