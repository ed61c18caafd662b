"""Commands for Google's `gcloud`, and its answers. tests/launch/test_gcloud.py has every flag that is used here."""

from collections.abc import Sequence
import dataclasses
import json
import shutil
import subprocess
from typing import Any

from podrl.config.config import check
from podrl.launch.options import Options

ABSENT = "ABSENT"
READY = "READY"
_LIMIT_S = 120.0  # For a query.
_CREATE_LIMIT_S = 1800.0
_TPUS = ("gcloud", "compute", "tpus")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What exists under a TPU's name.

    Attributes:
        state: Google's word, such as READY, CREATING or PREEMPTED; the queued resource's while there is no TPU yet;
            ABSENT if there is neither.
        workers: number of the TPU's workers.
    """

    state: str
    workers: int


class GcloudError(RuntimeError):
    """A failed command of gcloud's; the message is one line with the reason."""


def check_installed() -> None:
    """Raises `ConfigError` if gcloud is not installed."""
    check(
        shutil.which("gcloud") is not None,
        "--tpu needs gcloud, which is not here. Install Google's Cloud SDK and log in (gcloud auth login), or add "
        "--dry_run to see what would be run.",
    )


def ssh(options: Options, worker: int | str, command: str) -> tuple[str, ...]:
    """Returns the command that runs `command` on a worker and exits with its exit code."""
    return (*_TPUS, "tpu-vm", "ssh", str(options.tpu), f"--worker={worker}", f"--command={command}", *_where(options))


def scp(options: Options, worker: int | str, source: str, target: str) -> tuple[str, ...]:
    """Returns the command that copies a file into a worker's home."""
    return (*_TPUS, "tpu-vm", "scp", source, f"{options.tpu}:{target}", f"--worker={worker}", *_where(options))


def find_tpu(options: Options) -> Found:
    """Returns the state of the TPU.

    Raises:
        GcloudError: if gcloud cannot tell: not logged in, no such project or zone, no network.
    """
    found = _ask(*_TPUS, "tpu-vm", "describe", str(options.tpu), "--format=json", *_where(options))
    if found is not None:
        return Found(state=found["state"], workers=len(found.get("networkEndpoints", [])))
    if options.queued_resource is None:
        return Found(state=ABSENT, workers=0)
    resource = (*_TPUS, "queued-resources", "describe", options.queued_resource)
    queued = _ask(*resource, "--format=json", *_where(options))
    return Found(state=ABSENT if queued is None else queued["state"]["state"], workers=0)


def creation(options: Options) -> tuple[str, ...]:
    """Returns the command that creates the TPU, or asks for it through a queued resource."""
    kind = (f"--accelerator-type={options.accelerator_type}", *(("--spot",) if options.spot else ()))
    if options.queued_resource is None:
        version = f"--version={options.runtime_version}"
        return (*_TPUS, "tpu-vm", "create", str(options.tpu), version, *kind, *_where(options))
    node, version = f"--node-id={options.tpu}", f"--runtime-version={options.runtime_version}"
    queue = (*_TPUS, "queued-resources", "create", options.queued_resource)
    return (*queue, node, version, "--async", *kind, *_where(options))


def deletion(options: Options) -> tuple[str, ...]:
    """Returns the command that deletes what is left of the TPU."""
    if options.queued_resource is None:
        return (*_TPUS, "tpu-vm", "delete", str(options.tpu), *_where(options))
    return (*_TPUS, "queued-resources", "delete", options.queued_resource, "--force", *_where(options))


def list_command(folder: str, options: Options) -> tuple[str, ...]:
    """Returns the command that lists a folder in a bucket."""
    return ("gcloud", "storage", "ls", folder, *_project(options), "--quiet")


def newest_checkpoint(options: Options, workdir: str) -> int:
    """Returns the newest update with a checkpoint in a bucket; 0 if there is none."""
    try:
        text = call(list_command(f"{workdir.rstrip('/')}/checkpoints/", options))
    except GcloudError:
        return 0
    names = [line.rstrip("/").rpartition("/")[2] for line in text.split()]
    return max((int(name) for name in names if name.isdigit()), default=0)


def call(command: Sequence[str], limit_s: float = _LIMIT_S) -> str:
    """Runs a command and returns its stdout.

    Raises:
        GcloudError: if it fails or does not end within `limit_s`.
    """
    name = " ".join(argument for argument in command[:5] if not argument.startswith("--"))
    try:
        # In a process group of its own: Ctrl-C is for the launcher.
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL, process_group=0
        )
    except subprocess.TimeoutExpired:
        raise GcloudError(f"`{name}` did not end within {limit_s:.0f} s.") from None
    if result.returncode:
        raise GcloudError(f"`{name}` failed: {' '.join(result.stderr.split())}")
    return result.stdout


def create(options: Options) -> None:
    """Creates the TPU and waits for it; with a queued resource, only asks for it.

    Raises:
        GcloudError: if that fails.
    """
    call(creation(options), _CREATE_LIMIT_S)


def delete(options: Options) -> None:
    """Deletes what is left of the TPU.

    Raises:
        GcloudError: if that fails.
    """
    call(deletion(options), _CREATE_LIMIT_S)


def _ask(*command: str) -> dict[str, Any] | None:
    """Returns a command's answer in JSON; None if the object does not exist."""
    try:
        answer: dict[str, Any] = json.loads(call(command))
    except GcloudError as error:
        if "NOT_FOUND" in str(error) or "was not found" in str(error):
            return None
        raise
    return answer


def _where(options: Options) -> tuple[str, ...]:
    return (f"--zone={options.zone}", *_project(options), "--quiet")


def _project(options: Options) -> tuple[str, ...]:
    return () if options.project is None else (f"--project={options.project}",)
