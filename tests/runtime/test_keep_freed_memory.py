import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from podrl.runtime.machine import keep_freed_memory
took_effect = keep_freed_memory() if sys.argv[1] == "keep" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def touch():
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    touch()
print(took_effect, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode):
    command = [sys.executable, "-c", FAULTS, mode]
    took_effect, faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return took_effect == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_used_again_without_page_faults():
    took_effect, kept = page_faults("keep")
    _, given_back = page_faults("leave")
    assert took_effect
    assert kept < 1000 < given_back
