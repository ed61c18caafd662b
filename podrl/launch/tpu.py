"""Runs training on a TPU slice from a workstation: creates it, ships the tree, starts all workers, and resumes."""

from collections.abc import Sequence
import functools
from pathlib import Path
import secrets
import signal
import subprocess
import sys
import time

from absl import logging

from podrl.config.config import ConfigError, check
from podrl.config.programs import ROOT, is_clone
from podrl.launch import gcloud
from podrl.launch.job_end import JobEnd
from podrl.launch.members import Limits, Member, run_members
from podrl.launch.options import Options
from podrl.launch.restarts import run_with_restarts
from podrl.launch.shipping import Tree, pack_tree, ship_config
from podrl.launch.signals import StopSignals
from podrl.launch.tpu_commands import list_tpu_commands, secret_file, setup_command, start_command
from podrl.launch.tpu_slice import POLL_S, await_slice
from podrl.launch.worker import FAILED
from podrl.runtime.job.secret import make_secret
from podrl.runtime.stop_signals import INTERRUPTED, PREEMPTED
from podrl.runtime.temporary import temporary_folder

_STOP_LIMIT_S = 60.0
_CUT = 255  # Exit code of ssh after a lost connection; gcloud tries again ten times, and then ends with 1.


def launch_on_tpu(
    options: Options,
    arguments: Sequence[str],
    workdir: str | None,
    *,
    root: Path = ROOT,
    poll_s: float = POLL_S,
    limits: Limits | None = None,
) -> int:
    """Runs the training on all workers of a slice, and resumes it after preemptions; returns the exit code.

    Args:
        options: options that name the slice.
        arguments: arguments of the training.
        workdir: the run's folder, as in the arguments; in a bucket.
        root: root of the checkout to ship.
        poll_s: seconds between two queries of a slice that is not ready.
        limits: time limits for members to end.

    Raises:
        ConfigError: on a mistake of the user's.
    """
    check(
        workdir is not None and workdir.startswith("gs://"),
        f"--workdir={workdir}: with --tpu it must be in a bucket, gs://BUCKET/FOLDER, which all workers see and which "
        "outlives them.",
    )
    check(
        root != ROOT or is_clone(),
        "--tpu ships podrl's clone to the slice, and here podrl is installed from a wheel. Run the same command in a "
        "clone, or `podrl train` on every worker of the slice (docs/tpu.md).",
    )
    tree = pack_tree(root)
    arguments = ship_config(arguments, tree)
    if options.dry_run:
        sys.stdout.write(list_tpu_commands(options, arguments, tree))
        return 0
    gcloud.check_installed()
    try:
        gcloud.find_tpu(options)
    except gcloud.GcloudError as error:
        raise ConfigError(str(error)) from None
    with StopSignals() as stop, temporary_folder("tree") as folder:
        packed = Path(folder) / f"{tree.name}.tar.gz"
        packed.write_bytes(tree.packed)
        ending = run_with_restarts(
            functools.partial(_attempt, options, arguments, tree, packed, stop, limits, poll_s),
            stop,
            max_restarts=options.max_restarts or 0,
            pause_s=options.restart_pause_s,
            newest_update=lambda: gcloud.newest_checkpoint(options, str(workdir)),
            after_preemption=True,
        )
    if ending.code not in (0, PREEMPTED, INTERRUPTED):
        logging.info("Exit code %d: %s.", ending.code, ending.text)
    return ending.code


def _attempt(
    options: Options,
    arguments: Sequence[str],
    tree: Tree,
    packed: Path,
    stop: StopSignals,
    limits: Limits | None,
    poll_s: float,
) -> JobEnd:
    """Waits for the slice, and trains on it until the training or the slice ends."""
    found = await_slice(options, stop, poll_s)
    if found is None:
        return JobEnd(code=stop.exit_code or 1, text="no slice")
    ending = _prepare(options, found.workers, packed, tree, stop, limits)
    if ending.code == 0:
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        ending = _share_secret(options, found.workers, packed.parent, run, stop, limits)
    if ending.code == 0:
        ending = _train(options, found.workers, arguments, tree, run, stop, limits)
    return _as_preempted(options, ending)


def _prepare(
    options: Options, workers: int, packed: Path, tree: Tree, stop: StopSignals, limits: Limits | None
) -> JobEnd:
    """Ships the tree to all workers and installs it; on a worker that has it already this does nothing."""
    logging.info(
        "Shipping %s (%.1f MiB) to %d worker(s), and installing it.", tree.name, len(tree.packed) / 2**20, workers
    )
    for make in (
        lambda worker: gcloud.scp(options, worker, str(packed), packed.name),
        lambda worker: gcloud.ssh(options, worker, setup_command(tree)),
    ):
        members = [Member(name=f"p{worker}", command=make(worker)) for worker in range(workers)]
        ending = run_members(members, stop, limits=limits)
        if ending.code:
            return ending
    return ending


def _share_secret(
    options: Options, workers: int, folder: Path, run: str, stop: StopSignals, limits: Limits | None
) -> JobEnd:
    """Gives all workers a new secret, by which the processes of this start know each other.

    It is sent in a file that only its user may read, since every user of a machine sees the arguments of commands.
    """
    path = folder / secret_file(run)
    path.touch(mode=0o600)
    path.write_text(make_secret())
    members = [
        Member(name=f"p{worker}", command=gcloud.scp(options, worker, str(path), path.name))
        for worker in range(workers)
    ]
    ending = run_members(members, stop, limits=limits)
    path.unlink()
    return ending


def _train(
    options: Options,
    workers: int,
    arguments: Sequence[str],
    tree: Tree,
    run: str,
    stop: StopSignals,
    limits: Limits | None,
) -> JobEnd:
    members = [
        Member(
            name=f"p{worker}",
            command=gcloud.ssh(options, worker, start_command(tree, run, arguments)),
            codes={FAILED: 1, 1: _CUT},
        )
        for worker in range(workers)
    ]
    senders: list[subprocess.Popen[bytes]] = []

    def send(signum: signal.Signals) -> None:
        command = f"cd {tree.name} && .venv/bin/python podrl/launch/worker.py signal {run} {signum.name}"
        logging.info("Passing %s on to the workers.", signum.name)
        senders.extend(
            subprocess.Popen(
                gcloud.ssh(options, worker, command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
            for worker in range(workers)
        )
        if signum == signal.SIGKILL:  # The connections are cut next.
            _reap(senders)

    try:
        return run_members(members, stop, limits=limits, send=send)
    finally:
        _reap(senders)


def _as_preempted(options: Options, ending: JobEnd) -> JobEnd:
    """Returns the ending, with exit code 75 if the slice or the connection was lost and the training had not ended."""
    if ending.code in (0, 2, PREEMPTED):
        return ending
    try:
        state = gcloud.find_tpu(options).state
    except gcloud.GcloudError:
        state = "out of reach"
    if state != gcloud.READY:
        return JobEnd(code=PREEMPTED, text=f"{ending.text}, and the TPU is {state}")
    if ending.code == _CUT:
        return JobEnd(code=PREEMPTED, text=f"{ending.text}: its connection was lost")
    return ending


def _reap(senders: list[subprocess.Popen[bytes]]) -> None:
    for sender in senders:
        try:
            sender.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            sender.kill()
            sender.wait()
    senders.clear()
