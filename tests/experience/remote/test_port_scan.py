"""What a learner's address says to those without credentials."""

import socket
import ssl

import grpc
import numpy as np
import pytest

from podrl.experience.remote.messages import METHOD, SERVICE, Kind, read_head
from podrl.runtime.job.worker_credentials import PEER_NAME, make_job_credentials
from tests.experience.remote.places import Place

# What a client of HTTP/2 says first, and the types of the frames with which gRPC answers at once.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
SETTINGS, WINDOW_UPDATE = 4, 8
SCANS = {
    "silence": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": np.random.default_rng(0).bytes(300),
    "HTTP/2": PREFACE,
}


def place_at_a_port(certificates=""):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return Place(f"127.0.0.1:{port}", certificates=certificates), port


def scan(port, said, context=None):
    """What a scan hears; it waits a moment for more."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as stranger:
        if context is not None:
            stranger = context.wrap_socket(stranger)
        stranger.sendall(said)
        stranger.settimeout(0.4)
        try:
            while piece := stranger.recv(1 << 16):
                heard += piece
        except (TimeoutError, ssl.SSLError, ConnectionError):
            pass
        finally:
            stranger.close()
    return heard


def frames(heard):
    """The types of HTTP/2 frames."""
    found = []
    while heard:
        size = 9 + int.from_bytes(heard[:3], "big")
        found.append(heard[3])
        heard = heard[size:]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("credentials") / "job"
    make_job_credentials(made)
    return made


@pytest.mark.parametrize("said", SCANS)
def test_behind_tls_a_scan_hears_nothing(folder, said):
    place, port = place_at_a_port(str(folder))
    with place.server:
        assert scan(port, SCANS[said]) == b""


@pytest.mark.parametrize("shows", ["no certificate", "another's", "the job's"])
def test_behind_tls_only_the_jobs_certificate_hears_more_than_the_servers(tmp_path, folder, shows):
    """A handshake shows the server's certificate, which says the same for every job."""
    make_job_credentials(tmp_path / "other")
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    if shows != "no certificate":
        own = folder if shows == "the job's" else tmp_path / "other"
        context.load_cert_chain(own / "cert.pem", own / "key.pem")
    place, port = place_at_a_port(str(folder))
    with place.server:
        heard = scan(port, PREFACE, context)
    assert bool(heard) == (shows == "the job's")


@pytest.mark.parametrize("said", SCANS)
def test_within_the_host_a_scan_hears_the_settings_of_http_2_and_nothing_of_podrl(said):
    place, port = place_at_a_port()
    with place.server:
        heard = scan(port, SCANS[said])
    assert frames(heard)[:2] == [SETTINGS, WINDOW_UPDATE]
    assert len(heard) < 80


def test_a_call_hears_a_random_number_and_another_method_that_it_is_not_there(place):
    with grpc.insecure_channel(place.endpoint.target) as channel:
        first, second = (next(channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter([]), timeout=20)) for _ in range(2))
        assert first != second
        assert {read_head(first).kind, read_head(second).kind} == {Kind.NONCE}
        for method in ("/grpc.health.v1.Health/Check", f"/{SERVICE}/Other"):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(method)(b"", timeout=20)
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_certificate_names_no_host_and_no_user(folder):
    (names,) = ssl._ssl._test_decode_cert(str(folder / "cert.pem"))["subjectAltName"]
    assert names == ("DNS", PEER_NAME)
