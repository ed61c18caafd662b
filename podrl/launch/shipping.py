"""Packs the working tree into a file: the files that git tracks, as they are now, for machines without a copy."""

from collections.abc import Sequence
import dataclasses
import hashlib
import io
from pathlib import Path
import subprocess
import tarfile

from podrl.config.config import ConfigError, check
from podrl.config.config_files import is_own_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """A packed working tree.

    Attributes:
        root: root of the checkout.
        packed: a tar file, compressed by gzip.
        name: name derived from the content: another tree has another name.
        files: files in it, relative to the root.
    """

    root: Path
    packed: bytes
    name: str
    files: frozenset[str]


def pack_tree(root: Path) -> Tree:
    """Packs the files that git tracks, including changes that are not committed.

    Raises:
        ConfigError: if `root` is not in a checkout.
    """
    command = ["git", "-C", str(root), "ls-files", "-z"]
    try:
        listing = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        raise ConfigError(
            f"--tpu ships the files that git tracks, but {root} is not a git checkout. Run it from one."
        ) from None
    files = sorted(name for name in listing.split("\0") if name and (root / name).is_file())
    digest, packed = hashlib.sha256(), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in files:
            digest.update(name.encode() + b"\0" + (root / name).read_bytes())
            tar.add(root / name, arcname=name)
    return Tree(root=root, packed=packed.getvalue(), name=f"podrl-{digest.hexdigest()[:12]}", files=frozenset(files))


def shipped_path(path: str, tree: Tree) -> str:
    """Returns a file's path in the shipped tree.

    Raises:
        ConfigError: if it is not in the tree.
    """
    file = Path(path).resolve()
    check(
        file.is_relative_to(tree.root),
        f"{path} is outside of {tree.root}, which is all that is shipped. Copy it there.",
    )
    name = file.relative_to(tree.root).as_posix()
    check(name in tree.files, f"{path} is not tracked by git, so it is not shipped. Add it: git add {name}")
    return name


def ship_config(arguments: Sequence[str], tree: Tree) -> list[str]:
    """Returns the arguments with the config file's path in the shipped tree, which knows podrl's own by name.

    Raises:
        ConfigError: if the config file is not shipped.
    """
    found = list(arguments)
    for position, argument in enumerate(found):
        name, is_set, value = argument.partition("=")
        if name.lstrip("-") == "config" and name.startswith("-"):
            path = value if is_set else found[position + 1]
            if is_own_config(path):
                continue
            if is_set:
                found[position] = f"{name}={shipped_path(path, tree)}"
            else:
                found[position + 1] = shipped_path(path, tree)
    return found
