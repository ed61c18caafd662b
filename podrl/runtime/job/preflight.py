"""Checks before a job of several processes starts: do all have the same software, config, devices and workdir?

A difference would otherwise show late and as something else: as a hang in a collective, as numbers that no other run
can repeat, or as a checkpoint that lacks a part.
"""

from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import platform
import secrets
import time
from typing import Any

from absl import logging
from etils import epath
import jax

from podrl.config.commandline import CommandLine
from podrl.config.config import MISTAKE, Config, ConfigError
from podrl.config.config_dict import to_dict
from podrl.mistakes import shorten
from podrl.runtime.job.job import Job
from podrl.runtime.job.membership import Membership
from podrl.runtime.machine import jax_plugins
from podrl.runtime.software import LIBRARIES, find_commit, find_jax, find_versions

CLOCKS_S = 5.0  # Largest allowed difference between clocks.
_ENVIRONMENT = ("JAX_PLATFORMS", "LIBTPU_INIT_ARGS")
_VISIBLE_S = 10.0  # Time within which a file system shows a new file to all hosts.
_CONFIG = "--config."
_SOFTWARE = (*LIBRARIES, "python", "commit of podrl", "plugins of jax")
_DEVICES = ("kind of device", "number of devices")


def make_process_facts(config: Config, flags: Mapping[str, Any]) -> dict[str, str]:
    """Returns the facts that must be equal in all processes and are known without a look at devices.

    Args:
        config: the user's config, before any key in it was chosen for this machine.
        flags: command-line flags that decide what a run does, such as `workdir`.
    """
    return {
        **find_versions(),
        "python": platform.python_version(),
        "commit of podrl": find_commit() or "none",
        "plugins of jax": " ".join(sorted(jax_plugins())) or "none",
        **find_jax(os.environ),
        **{name: os.environ.get(name) or "nothing" for name in _ENVIRONMENT},
        **{f"--{name}": str(value) for name, value in flags.items()},
        **_flatten(to_dict(config), _CONFIG),
    }


def make_device_facts() -> dict[str, str]:
    """Returns the facts that must be equal for all processes' devices; all processes must look for them together."""
    devices = jax.local_devices()
    return {"kind of device": devices[0].device_kind, "number of devices": str(len(devices))}


def check_agreement(job: Job, facts: Mapping[str, str], timeout_s: float) -> float:
    """Compares the facts of all processes; all of them call it.

    Args:
        job: the job; left in good order before an error is raised.
        facts: this process's facts, from `make_process_facts` or `make_device_facts`.
        timeout_s: seconds to wait for the others' facts.

    Returns:
        Seconds between the clock that is most ahead and the one most behind, to a fraction of a second.

    Raises:
        ConfigError: in every process, if facts differ; the message names them, and the processes in the minority.
        TimeoutError: if a process does not answer in time; the message names it.
    """
    all_facts = [json.loads(text) for text in job.exchange("facts", json.dumps(dict(facts)), timeout_s)]
    # All left the exchange at nearly the same time, so differences between their times are those of their clocks.
    clocks = [float(text) for text in job.exchange("clock", repr(time.time()), timeout_s)]
    complaint = describe_differences(all_facts, [job.name_of(process) for process in range(job.process_count)])
    if complaint:
        job.leave(MISTAKE)
        raise ConfigError(complaint)
    skew_s = max(clocks) - min(clocks)
    if skew_s > CLOCKS_S:
        ahead, behind = clocks.index(max(clocks)), clocks.index(min(clocks))
        logging.warning(
            "Clocks differ by %.1f s, that of %s being ahead of that of %s. Times in logs do not compare.",
            *(skew_s, job.name_of(ahead), job.name_of(behind)),
        )
    return skew_s


def describe_differences(all_facts: Sequence[Mapping[str, str]], names: Sequence[str]) -> str:
    """Returns one line on what differs and what to do; empty if nothing differs.

    Args:
        all_facts: the facts, by process.
        names: the processes' names.
    """
    keys = dict.fromkeys(key for facts in all_facts for key in facts)
    differing = [key for key in keys if len({facts.get(key) for facts in all_facts}) > 1]
    if not differing:
        return ""
    found = [_difference(key, [facts.get(key, "nothing") for facts in all_facts], names) for key in differing]
    text = shorten(found, 3)
    return f"{text[:1].upper()}{text[1:]}. {_advice(differing[0])}"


def check_shared_workdir(job: Job, workdir: str, timeout_s: float) -> None:
    """Checks that all processes see the same folder and may write to it; all of them call it.

    Args:
        job: the job; left in good order before an error is raised.
        workdir: the folder's path as this process knows it.
        timeout_s: seconds to wait for the others.

    Raises:
        ConfigError: in every process, if one does not; the message names it and the reason.
        TimeoutError: if a process does not answer in time; the message names it.
    """
    folder = epath.Path(workdir)
    own = folder / f".preflight-{secrets.token_hex(8)}"
    problem = _try_to_write(own) if job.process_index == 0 else ""
    shared = job.exchange("name in workdir", "" if problem else own.name, timeout_s)[0]
    if job.process_index != 0 and shared:
        problem = _try_to_read(folder / shared) or _try_to_write(own)
    problems = job.exchange("workdir", problem, timeout_s)
    with contextlib.suppress(OSError):
        own.unlink(missing_ok=True)
    found = [f"{job.name_of(process)} {text}" for process, text in enumerate(problems) if text]
    if found:
        job.leave(MISTAKE)
        raise ConfigError(
            f"--workdir={workdir}: {shorten(found, 3)}. Choose a folder that all hosts share, such as one on a network "
            "file system or gs://, and may write to."
        )


def _try_to_write(path: epath.Path) -> str:
    """Writes a file and returns what went wrong; empty if nothing did."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("Is this folder shared?\n")
    except OSError as error:
        return f"cannot write there ({error.strerror or error})"
    return ""


def _try_to_read(path: epath.Path) -> str:
    """Waits for a file to appear and returns what went wrong; empty if nothing did."""
    deadline_s = time.monotonic() + _VISIBLE_S
    while True:
        try:
            path.read_text()
            return ""
        except FileNotFoundError:
            problem = "does not see what process 0 writes there"
        except OSError as error:
            problem = f"cannot read there ({error.strerror or error})"
        if time.monotonic() > deadline_s:
            return problem
        time.sleep(0.1)


def _difference(key: str, values: Sequence[str], names: Sequence[str]) -> str:
    """Returns `process 1 (node2) has jax 0.10.1, the others have 0.10.2`."""
    usual = max(values, key=values.count)
    odd = [process for process, value in enumerate(values) if value != usual]
    if len(values) == 2:
        return f"{names[0]} has {key} {values[0]}, {names[1]} has {values[1]}"
    parts: list[str] = []
    for value in dict.fromkeys(values[process] for process in odd):
        group = [names[process] for process in odd if values[process] == value]
        more = f" and {len(group) - 4} more" if len(group) > 4 else ""
        have = "has" if len(group) == 1 else "have"
        parts.append(f"{', '.join(group[:4])}{more} {have} {'' if parts else key + ' '}{value}")
    return f"{', '.join(parts)}, the others have {usual}"


def _advice(key: str) -> str:
    if key in _SOFTWARE:
        return "Install the same versions everywhere."
    if key in _DEVICES:
        return "Give every process as many devices of the same kind."
    if key.startswith("--"):
        return "Give every process the same command and the same config file."
    if key == "XLA_FLAGS":
        return "Set it to the same everywhere; on CPUs with AVX2 and no AVX-512 podrl adds a flag, where it is not set."
    return "Set it to the same everywhere."


def _flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Returns nested mappings as one mapping with dotted keys."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": repr(value)}
    return flat


def check_job(job: Job, membership: Membership, config: Config, command: CommandLine) -> None:
    """Agrees with the other processes, if there are any, on what each of them is about to do.

    Raises:
        ConfigError: if the processes are not alike; says who differs in what.
        TimeoutError: if one does not say what it is about to do; names it.
    """
    if membership.process_count > 1 or membership.platform != "alone":
        logging.info("%s.", membership.describe())
    if job.process_count > 1:
        flags = {
            name: getattr(command, name) for name in ("workdir", "profile", "accept_changes", "start_anew", "init_from")
        }
        skew_s = check_agreement(job, make_process_facts(config, flags), command.join_timeout_s)
        check_agreement(job, make_device_facts(), command.join_timeout_s)
        if job.process_index == 0:
            logging.info("All %d processes agree; their clocks differ by %.1f s.", job.process_count, skew_s)
        else:  # What is no warning is told once for the job.
            logging.set_verbosity(logging.WARNING)
