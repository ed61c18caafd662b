"""Mutual TLS with real certificates: the user's own, and those that are made for a job."""

import contextlib
import dataclasses
import datetime
import ipaddress
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
import pytest

from podrl.config.config import ConfigError, EnvConfig
from podrl.experience.remote.endpoint import Endpoint
from podrl.experience.remote.env_workers import read_secret
from podrl.experience.remote.server import WorkerServer
from podrl.experience.remote.transport import read_certificates
from podrl.experience.remote.worker import LostLearnerError, serve_learner
from podrl.runtime.job.secret import FILE_VARIABLE
from podrl.runtime.job.worker_credentials import PEER_NAME, make_job_credentials
from tests.experience.remote.in_process import SECRET, write_secret
from tests.processes import ROOT


def certificates(folder, name, authority=None):
    """A folder with a certificate for this host, signed by a CA of its own or by `authority` (its folder)."""
    own = folder / name
    own.mkdir()
    if authority is None:
        authority, key = own, ec.generate_private_key(ec.SECP256R1())
        (own / "ca.key").write_bytes(_private(key))
        (own / "ca.pem").write_bytes(_sign(key.public_key(), key, f"CA of {name}", is_authority=True))
    else:
        (own / "ca.pem").write_bytes((authority / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((authority / "ca.key").read_bytes(), None)
    issuer = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes()).subject
    key = ec.generate_private_key(ec.SECP256R1())
    (own / "key.pem").write_bytes(_private(key))
    (own / "cert.pem").write_bytes(_sign(key.public_key(), signer, name, issuer=issuer))
    return own


def _private(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _sign(public_key, signer, name, *, issuer=None, is_authority=False):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer or subject,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=datetime.datetime(2020, 1, 1),
        not_valid_after=datetime.datetime(2120, 1, 1),
    ).add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    builder = builder if is_authority else builder.add_extension(host, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_with_certificates_only_those_of_the_same_authority_come_in(tmp_path):
    ours = certificates(tmp_path, "learner")
    theirs, others = certificates(tmp_path, "worker", ours), certificates(tmp_path, "other")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = dataclasses.asdict(EnvConfig(id="Catch-v0"))
    server = WorkerServer(Endpoint(address, str(ours)), SECRET.encode(), env, num_workers=1, longest_bytes=1000)
    with server:
        for stranger in (Endpoint(address, str(others)), Endpoint(address)):
            with pytest.raises(LostLearnerError, match="No learner answered"):
                serve_learner(stranger, SECRET.encode(), wait_s=1)
        worker = threading.Thread(
            target=serve_learner, args=(Endpoint(address, str(theirs)), SECRET.encode()), kwargs={"wait_s": 20}
        )
        worker.start()
        server.wait(timeout_s=20)
        server.close(0)
        worker.join(20)


def test_certificates_that_are_missing_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cert\.pem cannot be read .* Expected cert.pem, key.pem, ca.pem in"):
        read_certificates(str(tmp_path), of_server=True)


@pytest.mark.parametrize("folder", ["~nobody_of_this_name/certificates", "{file}"])
def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, folder):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match=r"certificates' folder .* cannot be read .*remote\.certificates or"):
        read_certificates(folder.format(file=tmp_path / "file"), of_server=True)


def own_address():
    """An address of this host that other hosts reach, with a free port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("198.51.100.1", 9))  # Sends nothing.
        host = probe.getsockname()[0]
        with socket.create_server((host, 0)) as free:
            return "{}:{}".format(*free.getsockname())
    return pytest.skip("this host has no address but its own")


def make(folder, *, clock_days=0.0, **settings):
    """Credentials that a host makes whose clock is ahead by so many days."""
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=clock_days)
    make_job_credentials(folder, now=now, **settings)
    return folder


@contextlib.contextmanager
def learner(address, folder):
    secret = read_secret({}, address, is_local=False, certificates=str(folder))
    env = dataclasses.asdict(EnvConfig(id="Catch-v0"))
    with WorkerServer(Endpoint(address, str(folder)), secret, env, num_workers=1, longest_bytes=1000) as server:
        yield server


def join(server, address, folder):
    """A worker with this folder joins, and ends with the run."""
    secret = read_secret({}, address, is_local=False, certificates=str(folder))
    arguments = {"args": (Endpoint(address, str(folder)), secret), "kwargs": {"wait_s": 20}}
    worker = threading.Thread(target=serve_learner, **arguments)
    worker.start()
    server.wait(timeout_s=20)
    server.close(0)
    worker.join(20)
    assert not worker.is_alive()


def test_over_an_address_that_other_hosts_reach_only_the_jobs_own_pair_comes_in(tmp_path):
    address, ours, others = own_address(), make(tmp_path / "ours"), make(tmp_path / "others")
    copied = shutil.copytree(ours, tmp_path / "copied")
    signed = certificates(tmp_path, "signed")  # With the right name even, but of another authority.
    with learner(address, ours) as server:
        for stranger in (Endpoint(address, str(others)), Endpoint(address, str(signed)), Endpoint(address)):
            with pytest.raises(LostLearnerError, match="No learner answered"):
                serve_learner(stranger, SECRET.encode(), wait_s=0.5)
        assert server.refusals.count == 0  # TLS refuses them before they can say a word.
        join(server, address, copied)


def test_the_pair_without_the_secret_is_refused(tmp_path):
    address, ours = own_address(), make(tmp_path / "ours")
    with learner(address, ours) as server:
        with pytest.raises(ConfigError, match="another job secret"):
            serve_learner(Endpoint(address, str(ours)), SECRET.encode(), wait_s=20)
        assert server.refusals.count == 1


@pytest.mark.parametrize("clock_days", [-1, 1])
def test_a_clock_that_is_a_day_off_does_not_matter(tmp_path, clock_days):
    address, ours = own_address(), make(tmp_path / "ours", clock_days=clock_days, days=2)
    with learner(address, ours) as server:
        join(server, address, ours)


@pytest.mark.parametrize(("clock_days", "why"), [(-3, "has expired"), (3, "is not yet valid")])
def test_a_pair_that_is_not_valid_now_is_one_line_on_either_side(tmp_path, clock_days, why):
    address, ours = own_address(), make(tmp_path / "ours", clock_days=clock_days, days=2)
    with pytest.raises(ConfigError, match=rf"cert\.pem is not accepted by this host: certificate {why}.* clock"):
        learner(address, ours).__enter__()
    with pytest.raises(ConfigError, match=why):
        serve_learner(Endpoint(address, str(ours)), SECRET.encode(), wait_s=20)


def test_the_users_own_that_are_not_valid_now_are_one_line(tmp_path):
    ours, others = certificates(tmp_path, "learner"), certificates(tmp_path, "other")
    assert read_certificates(str(ours), of_server=True).peer_name == ""
    shutil.copy(others / "ca.pem", ours / "ca.pem")
    for of_server in (True, False):
        with pytest.raises(ConfigError, match=r"cert\.pem is not accepted by .*ca\.pem"):
            read_certificates(str(ours), of_server=of_server)


def test_the_tool_makes_a_folder_for_its_user_alone(tmp_path):
    command = [sys.executable, str(ROOT / "tools/make_job_credentials.py"), "--out", str(tmp_path / "new/job")]
    before = os.umask(0)
    try:
        assert subprocess.run(command, capture_output=True, text=True).stderr == ""
    finally:
        os.umask(before)
    folder = tmp_path / "new/job"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"job": 0o700, "cert.pem": 0o600, "key.pem": 0o600, "secret": 0o600}
    assert [path.name for path in folder.parent.iterdir()] == ["job"]
    assert read_certificates(str(folder), of_server=True).peer_name == PEER_NAME
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "each job has its own" in again.stderr


@pytest.mark.parametrize(("name", "mode"), [("key.pem", 0o640), ("cert.pem", 0o604), ("", 0o770)])
def test_a_pair_that_others_may_read_or_change_is_refused(tmp_path, name, mode):
    folder = make(tmp_path / "job")
    (folder / name).chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:o} and belongs to user"):
        read_certificates(str(folder), of_server=True)


def test_the_secret_of_a_folder_is_for_its_user_alone_and_a_variable_comes_first(tmp_path):
    folder = make(tmp_path / "job")
    assert len(read_secret({}, "node1:1", is_local=False, certificates=str(folder))) == 64
    given = {FILE_VARIABLE: str(write_secret(tmp_path))}
    assert read_secret(given, "node1:1", is_local=False, certificates=str(folder)) == SECRET.encode()
    (folder / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match="mode 644"):
        read_secret({}, "node1:1", is_local=False, certificates=str(folder))


def test_without_the_package_one_line_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match=r"cryptography: pip install -e '\.\[workers\]'"):
        make(tmp_path / "job")
    assert not list(tmp_path.iterdir())
