"""The folder of a run, and the files that are written before anything else.

If the folder holds a run of the same config, that run is resumed.
"""

from collections.abc import Mapping, Sequence
import os
import platform
import secrets
from typing import Any

from absl import logging
from etils import epath

from podrl.config.config import Config, check
from podrl.config.config_dict import default_sections, differences, to_dict, with_defaults
from podrl.config.remote import PUBLISHING_KEYS, publishing
from podrl.config.user_modules import config_folders
from podrl.envs.pools.atari_screens import describe_other_screen
from podrl.mesh import Topology
from podrl.mistakes import shorten
from podrl.runs.records import CONFIG_FOLDERS, REPAIR, read_json, read_manifests
from podrl.runs.run_files import START_ANEW, check_rights, find_remains, holds_run, write_json, writing
from podrl.runs.seed_folders import check_seed_folders
from podrl.runtime.software import describe_start


def make_workdir(
    config: Config,
    path: str,
    *,
    accept_changes: bool = False,
    start_anew: bool = False,
    env_before: Mapping[str, str] | None = None,
    data_hash: str = "",
) -> epath.Path:
    """Makes the run's folder, or takes the folder of an earlier run of this config.

    Args:
        config: the run's config.
        path: absolute path of the folder, see `podrl.config.paths.absolute_workdir`.
        accept_changes: whether to resume the run in the folder although its config differs.
        start_anew: whether the folder's content will be deleted, whatever it is.
        env_before: keys of `env` whose default has changed, with the former meaning; see `podrl.types.EnvSpec`.
        data_hash: hash of the data set that the run learns from; empty without one.

    Raises:
        ConfigError: if it cannot be written, holds a run of another config or of other seeds, or remains of one; the
            message names the keys.
    """
    workdir = epath.Path(path)
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".write-test-{secrets.token_hex(8)}"  # A name that cannot have been made a link before.
        try:
            probe.write_text("Is there room?\n")
        finally:
            probe.unlink(missing_ok=True)
    check_rights(workdir)
    if start_anew:
        find_remains(workdir)  # Checks that the folder is not another program's, of which nothing may be deleted.
    else:
        check_seed_folders(config, workdir)
        _check_contents(config, workdir, env_before, accept_changes=accept_changes)
        if not accept_changes:
            _check_data(config, workdir, data_hash)
    return workdir


def _check_contents(
    config: Config, workdir: epath.Path, env_before: Mapping[str, str] | None, *, accept_changes: bool
) -> None:
    """Raises `ConfigError` unless the folder holds no run, or one that this config can resume."""
    if not holds_run(workdir):
        remains = find_remains(workdir)
        check(
            not remains,
            f"--workdir={workdir} holds {' and '.join(remains)} of a run, but its config.json is not there. Put it "
            f"back, choose another folder, or add {START_ANEW}.",
        )
        return
    before = read_config_file(workdir)  # Also if changes are accepted: a damaged config cannot be compared.
    if screens := describe_other_screen(before.get("env", {}), to_dict(config.env)):
        logging.warning("%s", screens)
    before, after = with_defaults(before, type(config.agent), env_before), to_dict(config)
    found = differences(before, after)
    if config.topology.micro_batches == 0:  # Left to each machine; earlier podrls recorded the resolved value.
        found.pop("topology.micro_batches", None)
    found.pop("log.info_keys", None)  # What is recorded beside the learning has no part in it.
    found = {key: pair for key, pair in found.items() if not key.startswith("record.")}
    decides = publishing(before["remote"]) != publishing(after["remote"])
    found = {key: pair for key, pair in found.items() if not key.startswith("remote.")} | (
        {key: found[key] for key in PUBLISHING_KEYS if key in found} if decides else {}
    )  # Nor who steps it, as long as the same parameters act.
    changes = [f"{key} was {old}, is {new}" for key, (old, new) in found.items()]
    check(
        accept_changes or not changes,
        f"--workdir={workdir} holds a run of another config: {shorten(changes)}. Choose another folder, or add "
        "--accept_changes to resume with the new values.",
    )


def _check_data(config: Config, workdir: epath.Path, data_hash: str) -> None:
    """Raises `ConfigError` if the run in the folder learned from other rows at its last start."""
    manifests = read_manifests(workdir) if data_hash and holds_run(workdir) else []
    before = manifests[-1].get("data", data_hash) if manifests else data_hash
    check(
        before == data_hash,
        f"--workdir={workdir} holds a run from other rows than data.path={config.data.path} has now (their hash was "
        f"{before}, is {data_hash}): the data set has grown, or is another one. Name the one that it had, choose "
        "another folder, or add --accept_changes to resume with these rows.",
    )


def read_config_file(workdir: epath.Path) -> dict[str, Any]:
    """Returns the `config.json` of a run.

    Raises:
        ConfigError: if it is damaged, or cannot be read; the message names it.
    """
    path = workdir / "config.json"
    values = read_json(path)
    for name in (*default_sections(), "agent", "env"):
        check(isinstance(values.get(name, {}), dict), f"{path} is damaged: {name} is no section of keys. {REPAIR}")
    return values


def saved_network(path: str | None) -> Mapping[str, Any]:
    """Returns the section `network` of the run that a folder holds; empty without a run, or a folder."""
    folder = epath.Path(path) if path is not None else None
    found: Mapping[str, Any] = read_config_file(folder).get("network", {}) if folder and holds_run(folder) else {}
    return found


def make_manifest(
    config: Config,
    topology: Topology,
    argv: tuple[str, ...],
    hosts: Sequence[str] = (platform.node(),),
    *,
    data_hash: str = "",
) -> dict[str, Any]:
    """Returns a run's manifest, ready for JSON: hardware, software, command, and where the user's modules may be.

    `hosts` are those of its processes, and `data_hash` is that of the data set that it learns from, if it has one.
    """
    return {
        **describe_start(argv),
        "seed": config.seed,
        "hosts": list(hosts),
        "micro_batches": config.topology.micro_batches,
        "devices": [str(device) for device in topology.mesh.devices.flat],
        "device_kind": topology.mesh.devices.flat[0].device_kind,
        "topology": {
            "mesh": dict(topology.mesh.shape),
            "actor": dict(topology.actor.shape),
            "learner": dict(topology.learner.shape),
        },
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **({CONFIG_FOLDERS: config_folders()} if config_folders() else {}),
        **({"data": data_hash} if data_hash else {}),
    }


def write_facts(workdir: epath.Path, config: Config, manifest: Mapping[str, Any]) -> None:
    """Writes `config.json` (resolved) and `manifest.json`; a resumed run's manifest gets a number."""
    manifests = len(list(workdir.glob("manifest*.json")))
    write_json(workdir / (f"manifest-{manifests + 1}.json" if manifests else "manifest.json"), manifest)
    write_json(workdir / "config.json", to_dict(config))  # Last: it shows that a run has begun.
