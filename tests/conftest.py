"""All tests see eight CPU devices; a test that wants fewer takes the first ones of `jax.devices()`.

Many tests train the same small agents: a program is compiled by the first of them, and read from disk by the others, as
in the commands that tests start. Each of xdist's workers has a cache of its own, since JAX says so when it reads what
another process has half written, and takes over what the others have long written.
"""

import contextlib
import ctypes
import gc
from importlib.util import find_spec
import os
from pathlib import Path
import shutil
import signal
import sys
import time

from tests.processes import QUICK_TO_COMPILE

os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", QUICK_TO_COMPILE]
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # As podrl has it; some tests import gRPC before podrl does.
if "PYTEST_XDIST_WORKER" in os.environ:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    os.environ["XDG_CACHE_HOME"] = str(caches / "podrl" / "tests" / os.environ["PYTEST_XDIST_WORKER"])

import jax
import pytest

from podrl.runtime.compilation_cache import use_compilation_cache  # Imports JAX, which reads the above.

# `nohup` and a shell's `&` start the tests with these ignored, and so all that they start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_CACHE = Path(use_compilation_cache())
_WRITTEN_S = 5.0  # After so long an entry, of some kilobytes, is whole.
_MEMORY_BYTES = 1.5e9
_NO_GYMNAX = "env.source='gymnax' needs Gymnax"
_END_S = float(os.environ.get("TESTS_END_S", "inf"))  # Seconds since 1970.


def pytest_runtest_setup():
    """Skips what would begin too late, where there is a limit to the time of all tests."""
    if time.time() > _END_S:
        pytest.skip("for want of time")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Skips a test that failed for want of Gymnax, which is not among what `dev` installs on newer Pythons."""
    report = yield
    if report.failed and find_spec("gymnax") is None and _NO_GYMNAX in f"{report.longrepr}{report.capstderr}":
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1], "Skipped: Gymnax is not installed (CONTRIBUTING.md)")
    return report


@pytest.fixture(scope="module")
def compiled_once():
    """Runs of a module's tests share their programs, see `tests.short_runs.shared_programs`."""
    from tests.short_runs import shared_programs

    with shared_programs():
        yield


@pytest.fixture(autouse=True, scope="module")
def programs_of_other_workers():
    """Copies what other workers have compiled so far into this one's cache."""
    if "PYTEST_XDIST_WORKER" not in os.environ or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    _CACHE.mkdir(parents=True, exist_ok=True)
    known, workers = set(os.listdir(_CACHE)), _CACHE.parents[2]
    for entry in workers.glob("*/podrl/compilation/*-cache"):
        with contextlib.suppress(OSError):
            if entry.name not in known and time.time() - entry.stat().st_mtime > _WRITTEN_S:
                shutil.copyfile(entry, whole := _CACHE / f"{entry.name}.copy")
                os.replace(whole, _CACHE / entry.name)


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped_once_they_take_much_memory():
    """JAX keeps all that a process has compiled; what a later module needs again is read from disk."""
    yield
    if _resident_bytes() > _MEMORY_BYTES:
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(AttributeError):  # Only glibc has it.
            ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # Not on Linux.
        return 0


@pytest.fixture(autouse=True)
def process_wide_settings_end_with_the_test():
    """Tools that a test runs in this process set XLA's variables, after XLA has read them, and add to Python's path."""
    before, path = {name: os.environ.get(name) for name in ("XLA_FLAGS", "NPROC")}, list(sys.path)
    yield
    sys.path[:] = path
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
