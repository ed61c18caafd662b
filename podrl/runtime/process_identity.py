"""Identifies a process beyond its number, which another process may have by now, and tells whether it still runs."""

from collections.abc import Mapping
import os
from pathlib import Path
import platform
import sys
from typing import Any


def name_this_process() -> dict[str, Any]:
    """Returns this process's name, ready for JSON: host and number for people, place and birth for `has_ended`."""
    process = os.getpid()
    return {"host": platform.node(), "process": process, "place": _place(), "born": _born(process)}


def has_ended(name: Mapping[str, Any]) -> bool | None:
    """Returns whether the process of this name has ended; None if it cannot be looked up here, as from another host."""
    place, process = _place(), name.get("process")
    if not place or name.get("place") != place or not isinstance(process, int):
        return None
    born = _born(process)
    return None if born is None else born != name.get("born")


def _place() -> str:
    """Returns where processes can be looked up by their number: a boot of a machine, and within it a container.

    Empty if they cannot, as where `/proc` shows another namespace's processes.
    """
    if sys.platform != "linux":
        return platform.node()
    try:
        sees_itself = os.readlink("/proc/self") == str(os.getpid())
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}" if sees_itself and (boot := name_boot()) else ""
    except OSError:
        return ""


def name_boot() -> str:
    """Returns an identifier of the machine's current boot, the same in all its containers; empty if there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _born(process: int) -> str | None:
    """Returns when a process started, in the system's form; empty if it has ended, None if the system does not say."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if state in ("Z", "X") else fields[18]
    except OSError:  # `/proc` may not exist, or may hide other users' processes.
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except (OSError, OverflowError):
        pass
    return None
