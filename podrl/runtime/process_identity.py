"""Which process of which machine one is, and whether it is still there: its number alone may be another's by now."""

from collections.abc import Mapping
import os
from pathlib import Path
import platform
import sys
from typing import Any


def name_this_process() -> dict[str, Any]:
    """Ready for JSON: host and number for people, place and birth for `has_ended`."""
    process = os.getpid()
    return {"host": platform.node(), "process": process, "place": _place(), "born": _born(process)}


def has_ended(name: Mapping[str, Any]) -> bool | None:
    """Whether the process of this name has ended; None if it cannot be looked for from here, as on another host."""
    place, process = _place(), name.get("process")
    if not place or name.get("place") != place or not isinstance(process, int):
        return None
    born = _born(process)
    return None if born is None else born != name.get("born")


def _place() -> str:
    """Where processes can be looked for by their number: a boot of a machine, and within it a container.

    Empty if they cannot, as where `/proc` is that of other processes.
    """
    if sys.platform != "linux":
        return platform.node()
    try:
        sees_itself = os.readlink("/proc/self") == str(os.getpid())
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}" if sees_itself and (boot := name_boot()) else ""
    except OSError:
        return ""


def name_boot() -> str:
    """A name of this machine since it was started, the same in all its containers; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _born(process: int) -> str | None:
    """When a process was started, in the system's words; empty if it has ended, None if the system does not say."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if state in ("Z", "X") else fields[18]
    except OSError:  # There may be no `/proc`, or it may hide what is another user's.
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except (OSError, OverflowError):
        pass
    return None
