"""Limits that a container sets for a process: time on cores, memory, threads. Imports nothing slow.

Linux keeps these limits in files of control groups: version 2 has one tree for all controllers, version 1 a tree for
each. A container often sees its own group as the root, but its path as on the host: a folder that does not exist there
has a parent that does.

Sources: cgroups(7); the kernel's cgroup-v1/cpuacct.rst, pids.rst and cgroup-v2.rst.
"""

import _thread
from collections.abc import Iterator, Mapping
import contextlib
import errno
import math
import os
from pathlib import Path
import resource
import threading
import traceback

SHARERS_VARIABLE = "PODRL_SHARERS"  # Number of a job's processes that were started in one container.
GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_OTHER_THREADS = 28  # Threads that every run has at least: its actors, checkpoints and environments.
_THREADS_PER_CORE = 2  # Threads of XLA's CPU backend.
_NO_THREAD = "can't start new thread"
_REFUSED = "Resource temporarily unavailable"  # A C++ library's only message when it gets no thread.
# Files of Python's library that start processes. A read without data raises the same error as a failed start.
_STARTERS = ("/subprocess.py", "/multiprocessing/popen_fork.py", "/multiprocessing/util.py")


class LimitReached(RuntimeError):
    """No more threads or processes can be started."""


def cpu_quota(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Returns the number of cores whose time this process may use; infinite without a quota.

    Args:
        groups: mount point of the control groups; as in the other functions.
        own: the kernel's file that lists this process's groups.
    """
    quotas = [math.inf]
    for folder in _folders("cpu", groups, own):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas)


def quota_cores(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Returns each sharing process's part of the quota in whole cores, rounded up so that none of it stays idle."""
    sharers = os.environ.get(SHARERS_VARIABLE, "1")
    quota = cpu_quota(groups, own) / (int(sharers) if sharers.isdigit() and int(sharers) else 1)
    return quota if math.isinf(quota) else max(1, math.ceil(quota))


def memory_limit(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Returns the bytes of memory that this process and its groups may use together; infinite without a limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    found = [_read(folder / name) for folder in _folders("memory", groups, own) for name in names]
    return min((float(text) for text in found if text.isdigit()), default=math.inf)


def check_threads(environ: Mapping[str, str], cores: int) -> None:
    """Raises `LimitReached` unless as many threads can be started as a run needs at least.

    It starts them: kernels differ in what counts against which limit, and XLA aborts the process when it gets no
    thread.

    Args:
        environ: environment variables; NPROC may set the number of cores for which XLA's CPU backend has threads.
        cores: number of cores that the process may use.
    """
    number = environ.get("NPROC", "")
    cores = int(number) if number.isdigit() else cores
    if not _can_start(_OTHER_THREADS + _THREADS_PER_CORE * cores):
        raise LimitReached(describe_limit())


def explain_limit(error: BaseException | None = None) -> str | None:
    """Explains which limit of threads caused an error, or a SIGINT: OpenBLAS raises one when it gets no thread.

    Args:
        error: the error, whose causes count too; None for a signal.

    Returns:
        One line; None if the cause is something else.
    """
    if error is None:
        return None if _gets_thread() else describe_limit()
    for each in _causes(error):
        if isinstance(each, LimitReached):
            return str(each)
        if _is_refusal(each):
            return describe_limit()
    return None


def describe_limit(groups: Path = GROUPS, own: Path = OWN) -> str:
    """Describes the nearest limit of threads and processes: its value and how to raise it."""
    said = "No more threads or processes can be started: "
    found: list[tuple[int, int, Path]] = []
    for folder in _folders("pids", groups, own):
        most, there = _read(folder / "pids.max"), _read(folder / "pids.current")
        if most.isdigit() and there.isdigit():
            found.append((int(most) - int(there), int(most), folder))
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    of_user = soft != resource.RLIM_INFINITY and os.geteuid() != 0  # Root is exempt.
    if found and (not of_user or min(found)[1] <= soft):
        _, limit, folder = min(found)
        return (
            f"{said}pids.max={limit} of this container's control group ({folder}). Raise it, as by docker run "
            "--pids-limit or the kubelet's podPidsLimit, or give the job fewer processes and threads "
            "(actors.env_threads)."
        )
    if of_user:
        return f"{said}RLIMIT_NPROC={soft} for all that this user runs. Raise it (ulimit -u), or end what else runs."
    return f"{said}the system has a limit that it does not tell. Look at kernel.threads-max and the machine's memory."


def _folders(controller: str, groups: Path, own: Path) -> list[Path]:
    """Returns the visible folders of this process's group and of all groups above it, of both versions."""
    found = []
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        tops = [groups / controllers, groups / controller] if controllers else [groups, groups / "unified"]
        for top in tops:
            folder = top / path.lstrip("/")
            found += [each for each in (folder, *folder.parents) if each == top or top in each.parents]
    return found


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_refusal(error: BaseException) -> bool:
    """Returns whether an error says that no thread or process could be started."""
    if isinstance(error, OSError):
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        return error.errno == errno.EAGAIN and (any(file.endswith(_STARTERS) for file in files) or not _gets_thread())
    return isinstance(error, RuntimeError) and (_NO_THREAD in str(error) or str(error) == _REFUSED)


def _gets_thread() -> bool:
    """Tries to start a thread. Signal handlers may call it: `threading` may hold a lock that they interrupted."""
    try:
        _thread.start_new_thread(int, ())
    except RuntimeError:
        return False
    return True


def _can_start(count: int) -> bool:
    """Returns whether that many more threads can run at the same time."""
    end = threading.Event()
    started = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        return _NO_THREAD not in str(error)  # While Python shuts down, it refuses threads with another message.
    finally:
        end.set()
        for thread in started:
            thread.join()
    return True
