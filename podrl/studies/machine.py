"""The machine that a study is started on."""

import importlib.metadata
import platform
from typing import Any

from etils import epath

from podrl.runtime.machine import available_cores
from podrl.runtime.software import LIBRARIES


def describe_host() -> dict[str, Any]:
    """What decides how fast it is, but for other work: hardware and software, ready for JSON."""
    return {
        "host": platform.node(),
        "processor": _processor(),
        "cores": available_cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    """The CPU's name, as Linux has it."""
    path = epath.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
