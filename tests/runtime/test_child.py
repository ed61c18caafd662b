"""A process that does what it is asked for, and is gone when it should be."""

import os
import time

import pytest

from podrl.config.config import ConfigError
from podrl.launch.local import usable_cores
from podrl.runtime.child import Child


def cores_and_threads():
    return usable_cores(), os.environ.get("NPROC")


def refuse():
    raise ConfigError("actors.num_envs=3 is odd.")


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_answers_and_errors_come_back(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    (core, *_) = usable_cores()
    with Child(cores=[core]) as child:
        assert child.ask(cores_and_threads) == ([core], "2")
        with pytest.raises(ConfigError, match="is odd"):
            child.ask(refuse)
        pid = child.ask(os.getpid)
        assert pid != os.getpid()
        assert is_alive(pid)
    assert not is_alive(pid)


def test_one_that_takes_too_long_is_ended():
    with Child() as child:
        pid = child.ask(os.getpid)
        start_s = time.monotonic()
        with pytest.raises(RuntimeError, match=r"sleep did not end within 1 s"):
            child.ask(time.sleep, 600, limit_s=1.0)
        assert time.monotonic() - start_s < 60
        assert not is_alive(pid)


def test_one_that_dies_is_told_with_its_exit_code():
    with Child() as child, pytest.raises(RuntimeError, match=r"_exit ended its process with exit code 7"):
        child.ask(os._exit, 7)
