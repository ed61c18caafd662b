"""Mutual TLS of JAX's service, with real certificates: who is let in, who is not, and what each mistake is called."""

import dataclasses
import importlib.util
import logging
import os
from pathlib import Path
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from podrl.config.config import ConfigError
from podrl.runtime.job import jax_service, mtls, own_credentials
from podrl.runtime.job.addresses import split_address
from podrl.runtime.job.connection import Connection
from podrl.runtime.job.coordinator import Coordinator
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.mtls import FILES, GIVEN, NONE, OWN, PREFIX, REQUIRED, given_credentials
from podrl.runtime.job.own_credentials import choose_kind, make_credentials, make_own
from tests.multihost.jobs import Member, free_address, job
from tests.processes import ROOT, launch, wait_for

HERE = socket.gethostname()
CERT, KEY, CA = FILES.values()
SPIFFE = "spiffe://example.org/"
# What a client of gRPC says first; a service that lets it in answers with its settings, a frame of type 4.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
SETTINGS = 4

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
needs_mtls = pytest.mark.skipif(not mtls.is_known_to_jax(), reason="this JAX has no mutual TLS, which came with 0.12")
needs_cryptography = pytest.mark.skipif(
    importlib.util.find_spec("cryptography") is None, reason="the package cryptography is not installed"
)


def openssl(*arguments, cwd):
    subprocess.run(["openssl", *map(str, arguments)], cwd=cwd, check=True, capture_output=True)


def make_authority(folder, name):
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key")
    openssl("req", "-x509", *new, "-out", f"{name}.crt", "-subj", f"/CN={name}", "-days", 2, cwd=folder)


def make_pair(folder, name, authority, *, names="IP:127.0.0.1", days=2, more=""):
    """Signs a certificate for these names, of a new key."""
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key")
    openssl("req", *new, "-out", f"{name}.csr", "-subj", f"/CN={name}", cwd=folder)
    (folder / f"{name}.ext").write_text(f"subjectAltName={names}\n{more}")
    by = ("-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial")
    signed = ("-in", f"{name}.csr", "-out", f"{name}.crt", "-days", days, "-extfile", f"{name}.ext")
    openssl("x509", "-req", *signed, *by, cwd=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    made = tmp_path_factory.mktemp("certificates")
    make_authority(made, "ca")
    make_authority(made, "other_ca")
    make_pair(made, "good", "ca")
    make_pair(made, "named", "ca", names=f"URI:{SPIFFE}job")
    make_pair(made, "elsewhere", "ca", names="DNS:elsewhere.invalid")
    make_pair(made, "expired", "ca", days=-1)
    make_pair(made, "other", "other_ca", names=f"IP:127.0.0.1,URI:{SPIFFE}job")
    make_pair(made, "middle_ca", "ca", more="basicConstraints=critical,CA:true")
    make_pair(made, "below", "middle_ca")
    openssl("ec", "-in", "good.key", "-out", "locked.key", "-aes128", "-passout", "pass:secret", cwd=made)
    os.mkfifo(made / "pipe")
    (made / "no.crt").write_text("not a certificate\n")
    return made


@pytest.fixture
def has_mtls(monkeypatch):
    """The files are looked at in the same way where JAX has no mutual TLS."""
    monkeypatch.setattr(mtls, "is_known_to_jax", lambda: True)


def variables(folder, name, authority="ca", key=None):
    paths = (folder / f"{name}.crt", folder / f"{key or name}.key", folder / f"{authority}.crt")
    return {variable: str(path) for variable, path in zip(FILES.values(), paths, strict=True)}


def is_let_in(address):
    """Whether a client of gRPC without certificates is let in."""
    with socket.create_connection(split_address(address), timeout=30.0) as connection:
        connection.sendall(PREFACE)
        try:
            answer = connection.recv(9)
        except ConnectionResetError:
            return False
    return len(answer) == 9 and answer[3] == SETTINGS


def end_all(members):
    """Exit codes, and lines of errors as users see them."""
    ended = [member.end() for member in members]
    return [code for code, _, _ in ended], [[line for line in lines if "rror" in line.lower()] for _, _, lines in ended]


def test_without_variables_there_are_none():
    assert given_credentials({}) is None
    assert given_credentials({CERT: "", PREFIX: ""}) is None


def test_all_three_files_or_none():
    with pytest.raises(ConfigError, match=f"{CERT}, {CA} are set, but not {KEY}. Mutual TLS needs {CERT}, {KEY}, {CA}"):
        given_credentials({CERT: "a", CA: "b"})
    with pytest.raises(ConfigError, match=f"{PREFIX} is set, but not {CERT} and {KEY} and {CA}"):
        given_credentials({PREFIX: SPIFFE})


def test_a_jax_without_mutual_tls_is_named(monkeypatch, folder):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.10.2")
    with pytest.raises(ConfigError, match=f"{CERT} asks for mutual TLS, which jax 0.10.2 does not have. Install jax>="):
        given_credentials(variables(folder, "good"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({KEY: "nowhere.key"}, "KEY_FILE=nowhere.key cannot be read (No such file or directory). It must be a file on"),
        ({CA: "."}, "CA_FILE=. is no file."),
        ({CA: "pipe"}, "CA_FILE=pipe is no file. Mutual TLS reads it now and then."),
        ({CERT: "no.crt"}, "CERT_FILE=no.crt is no PEM file"),
        ({KEY: "other.key"}, "key values mismatch"),
        ({KEY: "locked.key"}, "are no certificate, its key and a CA: "),
        ({CERT: "other.crt", KEY: "other.key"}, "CERT_FILE=other.crt is not accepted by JAX_MTLS_CA_FILE=ca.crt: "),
        ({CERT: "expired.crt", KEY: "expired.key"}, "CERT_FILE=expired.crt is not accepted by JAX_MTLS_CA_FILE=ca.crt"),
        ({CERT: "expired.crt", KEY: "expired.key"}, ": certificate has expired. Give a certificate that"),
        ({PREFIX: "spiffe://example.org"}, "PREFIX=spiffe://example.org must end with '/'"),
    ],
)
def test_each_mistake_in_the_files_is_one_line(has_mtls, monkeypatch, folder, changes, message):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as raised:
        given_credentials({CERT: "good.crt", KEY: "good.key", CA: "ca.crt"} | changes)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_mtls
def test_a_ca_that_is_no_root_is_trusted_as_by_jax(folder):
    credentials = given_credentials(variables(folder, "below", "middle_ca"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        service = jax_service.start_service(listener, f"{host}:{port}", 1, 25, credentials.arguments())
    mtls.check_service(credentials, host, port)
    client = jax_service.Client(f"{host}:{port}", 0, connect_s=60, beat_s=30, mtls=credentials.arguments())
    client.connect()
    client.shutdown()
    del service


def test_a_service_that_is_late_or_gone_is_no_mistake_in_the_files(has_mtls, monkeypatch, folder):
    monkeypatch.setattr(mtls, "_LIMIT_S", 0.1)
    credentials = given_credentials(variables(folder, "good"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        mtls.check_service(credentials, host, port)
    mtls.check_service(credentials, host, port)


def test_right_files_are_jaxs_arguments(has_mtls, folder):
    found = given_credentials(variables(folder, "good") | {PREFIX: SPIFFE})
    assert found.kind == GIVEN
    assert found.arguments() == {
        "mtls_cert_file": f"{folder}/good.crt",
        "mtls_key_file": f"{folder}/good.key",
        "mtls_ca_file": f"{folder}/ca.crt",
        "mtls_peer_uri_prefix": SPIFFE,
    }


def test_who_asks_for_mutual_tls_gets_no_job_without(monkeypatch):
    monkeypatch.setattr(own_credentials, "can_make", lambda: False)
    assert choose_kind({REQUIRED: "false"}) == NONE
    with pytest.raises(ConfigError, match=f"{REQUIRED} asks for mutual TLS, but no certificates are named, and none c"):
        choose_kind({REQUIRED: "true"})
    with pytest.raises(ConfigError, match=f"{REQUIRED} asks for mutual TLS, but not all processes of this job can"):
        make_credentials(NONE, {REQUIRED: "1"}, b"")
    assert make_credentials(NONE, {}, b"") is None


@pytest.mark.parametrize(("kinds", "agreed"), [((OWN, OWN), OWN), ((OWN, NONE), NONE), ((NONE, OWN), NONE)])
def test_processes_use_what_all_of_them_have(monkeypatch, caplog, kinds, agreed):
    monkeypatch.setattr("podrl.runtime.job.jax_service.start_service", lambda *_: object())
    monkeypatch.setattr("podrl.runtime.job.coordinator.make_credentials", lambda kind, environ, secret: None)
    with caplog.at_level(logging.WARNING, logger="absl"):
        lines, mistakes = meet(kinds)
    assert {line.tls for line in lines} == {agreed}
    assert mistakes == []
    assert ("runs without mutual TLS: not all processes can" in caplog.text) == (kinds == (OWN, NONE))


def test_certificates_on_some_processes_only_end_all_with_the_same_line():
    lines, mistakes = meet((GIVEN, OWN))
    assert lines == []
    assert (
        mistakes
        == [
            "Process 0 of this job has certificates for mutual TLS, but process 1 has none. Set JAX_MTLS_CERT_FILE, "
            "JAX_MTLS_KEY_FILE, JAX_MTLS_CA_FILE for all processes, or for none."
        ]
        * 2
    )


def meet(kinds):
    """Has processes of these kinds meet; returns the lines of those that did, and what mistakes others were told."""
    lines, mistakes, count = [], [], len(kinds)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        secret, parent = b"a secret of sixteen bytes or more", os.getppid()
        where = Coordinator(server.dup(), service_address="", count=count, job="", parent=parent, secret=secret)

        def join(index):
            membership = find_membership({}, coordinator=address, process_count=count, process_index=index)
            try:
                lines.append(Connection(membership, 60.0, secret, tls=kinds[index]))
            except ConfigError as error:
                mistakes.append(str(error))

        threads = [threading.Thread(target=join, args=(index,)) for index in range(count)]
        running = threading.Thread(target=where.run)
        for thread in (running, *threads):
            thread.start()
        for thread in threads:
            thread.join(60)
        for line in lines:
            line.close()
        running.join(60)
    return lines, mistakes


@needs_mtls
def test_jaxs_service_keeps_those_out_who_have_no_certificate(folder):
    for arguments in (given_credentials(variables(folder, "good")).arguments(), {}):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            service = jax_service.start_service(listener, address, 1, 25, arguments)
        assert is_let_in(address) == (not arguments)
        del service


def assert_keeps_others_out(kind):
    """Asserts that a job uses certificates of that kind, and that a client without one is refused."""
    address = free_address()
    with job(2, "wait", address=address) as members:
        for member in members:
            member.wait_for("waits")
        wait_for(lambda: members[0].has_said(f"JAX's coordination service uses mutual TLS ({kind} certificates)."))
        assert not is_let_in(address)


@needs_mtls
def test_a_job_with_certificates_keeps_others_out(folder, monkeypatch):
    for name, value in variables(folder, "good").items():
        monkeypatch.setenv(name, value)
    assert_keeps_others_out("given")


@needs_mtls
def test_names_by_uri_need_no_name_of_the_host(folder, monkeypatch):
    for name, value in (variables(folder, "named") | {PREFIX: SPIFFE}).items():
        monkeypatch.setenv(name, value)
    with job(2, "exchange") as members:
        assert end_all(members) == ([0, 0], [[], []])


@needs_mtls
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (("good", "ca"), ("other", "other_ca"), " is not accepted: "),
        (("good", "ca"), ("other", "both"), " does not accept this certificate"),
        (("elsewhere", "ca"), ("good", "ca"), " is not accepted: IP address mismatch, certificate is not valid for"),
    ],
)
def test_who_is_not_accepted_is_named_and_all_end(folder, first, second, message):
    """In the last case, where the service has another name, each process finds out by itself, if it has the time."""
    (folder / "both.crt").write_text((folder / "ca.crt").read_text() + (folder / "other_ca.crt").read_text())
    address = free_address()
    members = [
        Member(address, 2, index, 120, "wait", environ=variables(folder, name, authority))
        for index, (name, authority) in enumerate((first, second))
    ]
    try:
        codes, ((other,), (own,)) = end_all(members)
    finally:
        for member in members:
            member.kill()
    assert codes == [2, 2]
    assert message in own
    assert message in other
    if first == ("good", "ca"):
        assert own.startswith("podrl: error: ")
        assert f"Process 1 ({HERE}) ended: " in other


@needs_mtls
def test_a_launchers_processes_train_with_certificates(folder, tmp_path, monkeypatch):
    for name, value in variables(folder, "good").items():
        monkeypatch.setenv(name, value)
    config = ROOT / "configs/impala_catch.py"
    result = launch("--config", config, "--smoke", "--workdir", "run", "--local_processes", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "JAX's coordination service uses mutual TLS (given certificates)." in result.stderr


@needs_mtls
@needs_cryptography
def test_own_certificates_come_of_the_secret(monkeypatch):
    secret = b"a secret of sixteen bytes or more"
    mine, others = make_own(secret), make_own(secret)
    assert Path(mine.cert_file).read_text() != Path(others.cert_file).read_text()
    mtls._check_pair(dataclasses.replace(mine, ca_file=others.ca_file))
    strange = make_own(b"another " + secret)
    with pytest.raises(ConfigError, match="is not accepted by"):
        mtls._check_pair(dataclasses.replace(mine, ca_file=strange.ca_file))


@needs_cryptography
@pytest.mark.parametrize(
    ("call", "error"),
    [("os.memfd_create", PermissionError), ("builtins.open", FileNotFoundError), ("hashlib.scrypt", ValueError)],
)
def test_none_are_made_where_the_system_forbids_a_part_of_it(monkeypatch, call, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(own_credentials, "is_known_to_jax", lambda: True)
    assert own_credentials.can_make()
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        found = own_credentials.can_make()
    assert not found


@needs_cryptography
def test_own_certificates_can_be_read_where_proc_is_of_another_namespace():
    program = (
        "from podrl.runtime.job.own_credentials import make_own; print(open(make_own(b'of a test').cert_file).read())"
    )
    apart = ("unshare", "--pid", "--fork")
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("making a namespace wants root and unshare")
    command = (*apart, sys.executable, "-c", program)
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.stdout.startswith("-----BEGIN CERTIFICATE-----"), result.stderr


@needs_mtls
@needs_cryptography
def test_a_job_makes_certificates_of_its_own_and_keeps_others_out():
    assert_keeps_others_out("own")
    with job(2, "exchange") as members:
        assert end_all(members) == ([0, 0], [[], []])
