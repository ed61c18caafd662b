"""The folder of a run, and the facts that are written before anything else.

A folder that holds a run of the same config is one to go on with.
"""

from collections.abc import Mapping, Sequence
import importlib.metadata
import os
import platform
import secrets
import time
from typing import Any

from absl import logging
from etils import epath

from podrl.config.config import Config, ConfigError, check
from podrl.config.config_dict import default_sections, differences, to_dict, with_defaults
from podrl.envs.pools.atari_screens import describe_other_screen
from podrl.mesh import Topology
from podrl.mistakes import shorten
from podrl.runs.records import REPAIR, read_json
from podrl.runs.run_files import START_ANEW, check_rights, find_remains, holds_run, write_json
from podrl.runtime.machine import available_cores
from podrl.runtime.software import LIBRARIES, find_commit


def make_workdir(
    config: Config,
    path: str,
    *,
    accept_changes: bool = False,
    start_anew: bool = False,
    env_before: Mapping[str, str] | None = None,
) -> epath.Path:
    """Makes the run's folder, or takes the one of an earlier run of this config.

    Args:
        config: of the run.
        path: of the folder, from the root, see `podrl.config.paths.absolute_workdir`.
        accept_changes: go on with the run in the folder although its config is another.
        start_anew: what the folder has will be deleted, whatever it is.
        env_before: keys of `env` that mean something else by default than they did; see `podrl.types.EnvSpec`.

    Raises:
        ConfigError: if it cannot be written, holds a run of another config, or remains of one; names the keys.
    """
    workdir = epath.Path(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".write-test-{secrets.token_hex(8)}"  # A name that cannot have been made a link before.
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
    check_rights(workdir)
    if start_anew:
        find_remains(workdir)  # Of another program's folder nothing may be deleted.
    else:
        _check_contents(config, workdir, env_before, accept_changes=accept_changes)
    return workdir


def _check_contents(
    config: Config, workdir: epath.Path, env_before: Mapping[str, str] | None, *, accept_changes: bool
) -> None:
    """Raises ConfigError unless the folder holds no run, or one that this config can go on with."""
    if not holds_run(workdir):
        remains = find_remains(workdir)
        check(
            not remains,
            f"--workdir={workdir} holds {' and '.join(remains)} of a run, but its config.json is not there. Put it "
            f"back, choose another folder, or add {START_ANEW}.",
        )
        return
    before = read_config_file(workdir)  # Also where changes are accepted: a damaged one says nothing of them.
    if screens := describe_other_screen(before.get("env", {}), to_dict(config.env)):
        logging.warning("%s", screens)
    found = differences(with_defaults(before, type(config.agent), env_before), to_dict(config))
    if config.agent.micro_batches == 0:  # Left to each machine; earlier podrls wrote down what it became.
        found.pop("agent.micro_batches", None)
    changes = [f"{key} was {before}, is {after}" for key, (before, after) in found.items()]
    check(
        accept_changes or not changes,
        f"--workdir={workdir} holds a run of another config: {shorten(changes)}. Choose another folder, or add "
        "--accept_changes to go on with the new values.",
    )


def read_config_file(workdir: epath.Path) -> dict[str, Any]:
    """The `config.json` of a run.

    Raises:
        ConfigError: if it is damaged, or cannot be read; names it.
    """
    path = workdir / "config.json"
    values = read_json(path)
    for name in (*default_sections(), "agent", "env"):
        check(isinstance(values.get(name, {}), dict), f"{path} is damaged: {name} is no section of keys. {REPAIR}")
    return values


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
