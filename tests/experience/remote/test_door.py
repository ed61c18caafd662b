"""Which addresses are listened at, and which secrets are read."""

import pytest

from podrl.config.config import ConfigError
from podrl.experience.remote.door import Door, address_of_process, make_door
from podrl.experience.remote.env_workers import read_secret
from podrl.runtime.job.secret import FILE_VARIABLE
from tests.experience.remote.in_process import SECRET, remote_config, write_secret
from tests.short_runs import run


@pytest.mark.parametrize("address", ["0.0.0.0:8470", "node1:8470", "[::]:8470", "10.0.0.1:8470"])
def test_an_address_that_other_hosts_reach_is_refused_without_certificates(address):
    with pytest.raises(ConfigError, match=r"remote\.address=.* is open to other hosts.*remote\.certificates"):
        make_door("remote.address", address, "none", "remote.certificates")
    assert make_door("remote.address", address, "/certificates", "remote.certificates") == Door(
        address, "/certificates"
    )


@pytest.mark.parametrize("address", ["127.0.0.1:8470", "localhost:1", "[::1]:8470", "unix:/tmp/socket"])
def test_an_address_within_the_host_needs_none(address):
    assert make_door("remote.address", address, "none", "remote.certificates").is_local


@pytest.mark.parametrize(
    ("address", "match"), [("unix:", "no socket"), ("here", "HOST:PORT"), ("unix:" + "x" * 101, "100")]
)
def test_another_form_is_refused(address, match):
    with pytest.raises(ConfigError, match=match):
        make_door("--connect", address, "", "--worker_certificates")


def test_each_process_listens_at_an_address_of_its_own():
    assert address_of_process("unix:/tmp/s", 0, 1) == "unix:/tmp/s"
    assert address_of_process("unix:/tmp/s", 1, 2) == "unix:/tmp/s.1"
    assert address_of_process("127.0.0.1:8470", 1, 2) == "127.0.0.1:8471"


def test_the_secret_between_hosts_is_a_file_of_its_user_alone(tmp_path):
    secret = write_secret(tmp_path)
    assert read_secret({FILE_VARIABLE: str(secret)}, "node1:1", is_local=False) == SECRET.encode()
    with pytest.raises(ConfigError, match=f"node1:1 is open to other hosts.*{FILE_VARIABLE}"):
        read_secret({}, "node1:1", is_local=False)
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 644"):
        read_secret({FILE_VARIABLE: str(secret)}, "node1:1", is_local=False)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"topology__placement": "anakin", "env__source": "gymnax"}, "inside the compiled program"),
        ({"remote__timeout_s": 30.0}, "shorter than actors.timeout_s=30"),
        ({"remote__join_timeout_s": 300.0}, "shorter than watchdog_s=300"),
    ],
)
def test_a_run_that_workers_do_not_fit_is_refused(tmp_path, settings, match):
    with pytest.raises(ConfigError, match=match):
        remote_config(tmp_path, **settings)


def test_more_workers_than_pools_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(FILE_VARIABLE, str(write_secret(tmp_path)))
    with pytest.raises(ConfigError, match=r"remote.env_workers=3 are more than .* Use at most 2"):
        run(remote_config(tmp_path, num_workers=3))
