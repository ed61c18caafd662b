"""The folder of a run: who may write to it, and the facts that are written before anything else.

A folder that holds a run of the same config is one to go on with.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from typing import Any

from etils import epath

from podrl.config import Config, ConfigError, check
from podrl.config_dict import differences, to_dict, with_defaults
from podrl.mesh import Topology
from podrl.naming import new_folder
from podrl.platforms import available_cores

LIBRARIES = ("podrl", "jax", "jaxlib", "flax", "optax", "envpool", "gymnasium", "orbax-checkpoint", "numpy")


def make_workdir(config: Config, path: str | None, *, accept_changes: bool = False) -> epath.Path:
    """Makes the run's folder, or takes the one of an earlier run of this config.

    Args:
        config: names the folder, `runs/<config>-<time>`, if there is no `path`.
        path: where the user wants it.
        accept_changes: go on with the run in the folder although its config is another.

    Raises:
        ConfigError: if it cannot be written, or holds a run of another config; names the keys.
    """
    workdir = epath.Path(path) if path else new_folder(config.name)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".write-test"
        try:
            probe.write_text("Is there room?\n")
        finally:
            probe.unlink(missing_ok=True)
    except ImportError as error:
        raise ConfigError(
            f"--workdir={workdir} needs another package: {error}. For gs://, `pip install -e '.[tpu]'` brings it."
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--workdir={workdir} cannot be written ({reason}). Choose another folder.") from None
    if holds_run(workdir) and not accept_changes:
        before = json.loads((workdir / "config.json").read_text())
        found = differences(with_defaults(before, type(config.agent)), to_dict(config))
        if config.agent.micro_batches == 0:  # Left to each machine; earlier podrls wrote down what it became.
            found.pop("agent.micro_batches", None)
        changes = [f"{key} was {before}, is {after}" for key, (before, after) in found.items()]
        check(
            not changes,
            f"--workdir={workdir} holds a run of another config: {shorten(changes)}. Choose another folder, or add "
            "--accept_changes to go on with the new values.",
        )
    return workdir


def holds_run(workdir: epath.Path) -> bool:
    """Whether a run has begun in this folder."""
    return (workdir / "config.json").exists()


@contextlib.contextmanager
def sole_user(workdir: epath.Path) -> Iterator[None]:
    """Keeps other processes of this host's file systems from running in the same folder.

    Raises:
        ConfigError: if one does. A lock ends with its process, however that dies. Object stores have none.
    """
    if "://" in str(workdir):
        yield
        return
    with open(workdir / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--workdir={workdir} is in use by another run. Choose another folder.") from None
        except OSError:
            pass  # A file system without locks.
        yield


def make_manifest(
    config: Config, topology: Topology, argv: tuple[str, ...], hosts: Sequence[str] = (platform.node(),)
) -> dict[str, Any]:
    """What a run runs on and with, ready for JSON; `hosts` are those of its processes."""
    return {
        "argv": list(argv),
        "seed": config.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": find_commit(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hosts": list(hosts),
        "cores": available_cores(),
        "micro_batches": config.agent.micro_batches,
        "devices": [str(device) for device in topology.mesh.devices.flat],
        "device_kind": topology.mesh.devices.flat[0].device_kind,
        "topology": {
            "mesh": dict(topology.mesh.shape),
            "actor": dict(topology.actor.shape),
            "learner": dict(topology.learner.shape),
        },
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def write_facts(workdir: epath.Path, config: Config, manifest: Mapping[str, Any]) -> None:
    """Writes `config.json` (resolved) and `manifest.json`; that of a run that goes on gets a number."""
    manifests = len(list(workdir.glob("manifest*.json")))
    write_json(workdir / (f"manifest-{manifests + 1}.json" if manifests else "manifest.json"), manifest)
    write_json(workdir / "config.json", to_dict(config))  # Last: it says that a run has begun.


def write_json(path: epath.Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all, also if the process is killed."""
    written = path.with_name(path.name + ".tmp")
    written.write_text(json.dumps(content, indent=2) + "\n")
    written.replace(path)


def shorten(texts: Sequence[str], limit: int = 5) -> str:
    """The first few, and how many more there are."""
    more = [f"and {len(texts) - limit} more"] if len(texts) > limit else []
    return "; ".join([*texts[:limit], *more])


def find_commit() -> str | None:
    """The commit of podrl's own checkout, with `+changes` where the tree differs; None outside of one."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    def git(*arguments: str) -> str:
        command = ["git", "-C", folder, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), folder):
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
