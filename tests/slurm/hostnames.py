"""Names for nodes of this machine, in the hosts file: `jax.distributed` looks a job's first node up by its name."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import fcntl
import os
from pathlib import Path

HOSTS = Path("/etc/hosts")
_MARK = "# for a test, process"


@contextlib.contextmanager
def resolvable(names: Sequence[str]) -> Iterator[None]:
    """Makes `names` this machine's own within the context; takes away what tests that were killed have left."""
    line = f"127.0.0.1 {' '.join(names)} {_MARK} {os.getpid()}"
    _change(lambda lines: [*filter(_is_wanted, lines), line])
    try:
        yield
    finally:
        _change(lambda lines: [other for other in filter(_is_wanted, lines) if other != line])


def _change(change: Callable[[list[str]], list[str]]) -> None:
    """Rewrites the file in place, as containers mount it from outside; other tests wait."""
    with HOSTS.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = change(file.read().splitlines())
        file.seek(0)
        file.write("".join(f"{line}\n" for line in lines))
        file.truncate()


def _is_wanted(line: str) -> bool:
    """Whether this is not the line of a test that is gone."""
    _, mark, process = line.partition(_MARK)
    return not mark or Path("/proc", process.strip()).exists()
