"""Where a process finds its job's secret, and what is refused for one."""

from concurrent.futures import ThreadPoolExecutor
import os

import pytest

from podrl.config.config import ConfigError
from podrl.runtime.job.addresses import is_loopback
from podrl.runtime.job.secret import FILE_VARIABLE, VARIABLE, make_secret, take_secret

SECRET = "a secret of sixteen or more"
HERE, ELSEWHERE = {"address": "localhost:41234", "loopback": True}, {"address": "node1:41234", "loopback": False}


def secret_file(folder, text=SECRET + "\n", mode=0o600):
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("where", [HERE, ELSEWHERE])
def test_is_taken_out_of_the_environment(where, tmp_path):
    environ = {VARIABLE: f"{SECRET}\n", FILE_VARIABLE: "/not/looked/at", "HOME": "/root"}
    assert take_secret(environ, **where, home=tmp_path) == SECRET.encode()
    assert environ == {FILE_VARIABLE: "/not/looked/at", "HOME": "/root"}
    assert list(tmp_path.iterdir()) == []


def test_is_read_from_a_file(tmp_path):
    assert take_secret({VARIABLE: "", FILE_VARIABLE: str(secret_file(tmp_path))}, **ELSEWHERE) == SECRET.encode()


def test_between_hosts_it_has_to_be_given(tmp_path):
    with pytest.raises(ConfigError) as error:
        take_secret({}, **ELSEWHERE, home=tmp_path)
    assert "are to meet at node1:41234, which other hosts reach, and this one was given no secret" in str(error.value)
    assert f"{VARIABLE}, made once by python -c 'import secrets; " in str(error.value)
    assert f"or {FILE_VARIABLE}, the path of a file with mode 600 that holds it." in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_within_a_host_all_processes_of_a_user_find_the_same(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: take_secret({}, **HERE, home=tmp_path), range(64)))
    assert len(found) == 1
    (path,) = (tmp_path / ".podrl").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert found == {path.read_bytes().strip()}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path, mode):
    path = secret_file(tmp_path, mode=mode)
    with pytest.raises(
        ConfigError, match=rf"{FILE_VARIABLE}={path}: .* has mode {mode:o} and belongs to user"
    ) as error:
        take_secret({FILE_VARIABLE: str(path)}, **ELSEWHERE)
    assert SECRET not in str(error.value)


def test_so_is_the_users_own(tmp_path):
    take_secret({}, **HERE, home=tmp_path)
    (tmp_path / ".podrl/secret").chmod(0o604)
    with pytest.raises(ConfigError, match="has mode 604"):
        take_secret({}, **HERE, home=tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away wants root")
def test_so_is_a_file_of_another_user(tmp_path):
    path = secret_file(tmp_path)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        take_secret({FILE_VARIABLE: str(path)}, **ELSEWHERE)


@pytest.mark.parametrize("text", ["", "short", 15 * "x"])
def test_one_that_can_be_guessed_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=rf"a job's secret of {len(text)} characters can be guessed; at least 16"):
        take_secret({FILE_VARIABLE: str(secret_file(tmp_path, text))}, **ELSEWHERE)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=rf"{FILE_VARIABLE}={path}: the job's secret cannot be read \({why}"):
            take_secret({FILE_VARIABLE: str(path)}, **ELSEWHERE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"cannot be made \(.*\)\. Give all of them the same {VARIABLE} instead"):
        take_secret({}, **HERE, home=tmp_path / "file")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, why in ((tmp_path / "pipe", "is no file"), ("~no_such_user/secret", "there is no such user")):
        with pytest.raises(ConfigError, match=why) as error:
            take_secret({FILE_VARIABLE: str(path)}, **ELSEWHERE)
        assert str(error.value).startswith(f"{FILE_VARIABLE}={path}")
        assert f"Name a file of yours with mode 600 that holds the job's secret, or give {VARIABLE}" in str(error.value)


def test_one_that_a_variable_cannot_carry_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no NUL characters"):
        take_secret({FILE_VARIABLE: str(secret_file(tmp_path, SECRET.encode("utf-16-le").decode()))}, **ELSEWHERE)


def test_each_is_another():
    assert len({make_secret() for _ in range(100)}) == 100
    assert len(make_secret()) == 64


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.1.2.3:1", True),
        ("[::1]:1", True),
        ("LocalHost:1", True),
        ("0.0.0.0:1", False),
        ("localhost.example.org:1", False),
        ("127.example.org:1", False),
        ("10.0.0.1:1", False),
        ("[2620::2]:1", False),
    ],
)
def test_what_is_within_a_host(address, here):
    assert is_loopback(address) is here
