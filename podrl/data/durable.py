"""Files and folders that are whole on the disk, or not there, even if the machine loses its power."""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all; returns when it is on the disk."""
    written = unfinished(path)
    written.unlink(missing_ok=True)  # It might be a link.
    with open(written, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(written, path)
    sync_folder(path.parent)


def unfinished(path: Path) -> Path:
    """Returns under which name `write_durably` writes a file, before it gives it its own."""
    return path.with_name(f"{path.name}.tmp")


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_durably(folder: Path, target: Path) -> None:
    """Gives a folder its final name, when all in it is on the disk; its files have been synced before."""
    for inside, _, _ in os.walk(folder):
        sync_folder(Path(inside))
    os.rename(folder, target)
    sync_folder(target.parent)
