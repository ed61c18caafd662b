"""Which addresses are listened at, and which secrets are read."""

import os

import pytest

from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.config.remote import RemoteConfig
from podrl.experience.layout import Layout
from podrl.experience.remote.endpoint import Endpoint, address_of_process, make_endpoint
from podrl.experience.remote.env_workers import check_workers, read_secret
from podrl.runs.workdir import make_workdir, write_facts
from podrl.runtime.job.secret import FILE_VARIABLE
from tests.experience.remote.in_process import SECRET, remote_config, write_secret
from tests.short_runs import make_config


@pytest.mark.parametrize("address", ["0.0.0.0:8470", "node1:8470", "[::]:8470", "10.0.0.1:8470"])
def test_an_address_that_other_hosts_reach_is_refused_without_certificates(address):
    with pytest.raises(ConfigError, match=r"remote\.address=.* is open to other hosts.*remote\.certificates"):
        make_endpoint("remote.address", address, "none", "remote.certificates")
    assert make_endpoint("remote.address", address, "/certificates", "remote.certificates") == Endpoint(
        address, "/certificates"
    )


@pytest.mark.parametrize("address", ["127.0.0.1:8470", "localhost:1", "[::1]:8470", "unix:/tmp/socket"])
def test_an_address_within_the_host_needs_none(address):
    assert make_endpoint("remote.address", address, "none", "remote.certificates").is_local


@pytest.mark.parametrize(
    ("address", "match"), [("unix:", "no socket"), ("here", "HOST:PORT"), ("unix:" + "x" * 101, "100")]
)
def test_another_form_is_refused(address, match):
    with pytest.raises(ConfigError, match=match):
        make_endpoint("--connect", address, "", "--worker_certificates")


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


@pytest.mark.parametrize(
    ("timeout_s", "actors_timeout_s", "expected"), [(20.0, 120.0, 60.0), (80.0, 120.0, 80.0), (20.0, 30.0, 27.0)]
)
def test_a_pool_has_a_minute_to_open_but_less_than_the_actors_have(timeout_s, actors_timeout_s, expected):
    assert RemoteConfig(timeout_s=timeout_s).opening_s(actors_timeout_s) == expected


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_workers": 100}, r"remote\.env_workers=100 are more than there are pools.* Use at most \d+"),
        ({"remote__address": "node1:8470"}, "open to other hosts"),
    ],
)
def test_workers_that_the_run_cannot_have_are_refused_before_it_compiles(tmp_path, settings, match):
    with pytest.raises(ConfigError, match=match):
        assemble(remote_config(tmp_path, actors__num_envs=32, **settings))  # On the tests' eight devices.


def test_grpc_writes_no_lines_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPC_VERBOSITY", "")  # It is restored in the end.
    monkeypatch.delenv("GRPC_VERBOSITY")
    check_workers(remote_config(tmp_path), Layout(num_actors=1, pools_per_actor=2, envs_per_pool=4, num_processes=1))
    assert os.environ["GRPC_VERBOSITY"] == "NONE"


def test_a_run_may_resume_with_other_workers(tmp_path):
    alone = make_config()
    folder = make_workdir(alone, str(tmp_path / "run"))
    write_facts(folder, alone, {})
    assert make_workdir(remote_config(tmp_path), str(folder)) == folder
    with pytest.raises(ConfigError, match="another config"):
        make_workdir(remote_config(tmp_path, seed=2), str(folder))
