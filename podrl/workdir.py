"""The folder of a run, and the facts about it that are written before anything else: config and manifest."""

import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import time
from typing import Any

from etils import epath

from podrl.config import Config, ConfigError, check, to_dict
from podrl.layout import available_cores
from podrl.mesh import Topology

LIBRARIES = ("podrl", "jax", "jaxlib", "flax", "optax", "envpool", "orbax-checkpoint", "numpy")


def make_workdir(config: Config, path: str | None) -> epath.Path:
    """Makes the run's folder.

    Args:
        config: names the folder, `runs/<config>-<time>`, if there is no `path`.
        path: where the user wants it.

    Raises:
        ConfigError: if it cannot be written, or already holds a run.
    """
    workdir = epath.Path(path) if path else _free_folder(f"runs/{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".write-test"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--workdir={workdir} cannot be written ({reason}). Choose another folder.") from None
    taken = (workdir / "config.json").exists()
    check(not taken, f"--workdir={workdir} already holds a run. Choose another folder, or remove it.")
    return workdir


def write_facts(workdir: epath.Path, config: Config, topology: Topology, argv: tuple[str, ...]) -> None:
    """Writes `config.json` (resolved) and `manifest.json` (what it ran on and with)."""
    _write_json(workdir / "config.json", to_dict(config))
    _write_json(
        workdir / "manifest.json",
        {
            "argv": list(argv),
            "seed": config.seed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "commit": _commit(),
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cores": available_cores(),
            "devices": [str(device) for device in topology.mesh.devices.flat],
            "device_kind": topology.mesh.devices.flat[0].device_kind,
            "topology": {
                "mesh": dict(topology.mesh.shape),
                "actor": dict(topology.actor.shape),
                "learner": dict(topology.learner.shape),
            },
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        },
    )


def _free_folder(name: str) -> epath.Path:
    """`name`, or the first of `name-2`, `name-3`, ... that is not there yet."""
    candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in map(epath.Path, candidates) if not path.exists())


def _write_json(path: epath.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _commit() -> str | None:
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
