"""How the packages that podrl needs only for some things are installed."""

import importlib.metadata
import shlex

from podrl.config.programs import is_clone

_PLAIN = str.maketrans("", "", " '\"")  # Of a marker, such as `extra == "tls"`.


def install_command(extra: str) -> str:
    """Returns the command that installs an extra of podrl's: by its name in a clone, and elsewhere by its packages."""
    if is_clone():
        return f"pip install -e '.[{extra}]'"
    asked = [each.partition(";") for each in importlib.metadata.requires("podrl") or ()]
    packages = [package.strip() for package, _, when in asked if f"extra=={extra}" in when.translate(_PLAIN)]
    return shlex.join(["pip", "install", *packages])
