"""What the metadata server of a TPU machine says, and what of it means that a worker is alone."""

import contextlib
import http.server
import os
import socket
import threading

import pytest

from podrl.commands import train as tpu_launch
from podrl.config.config import ConfigError
from podrl.runtime.job import tpu_metadata
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.tpu_metadata import MetadataError, read_metadata

POD = {"agent-worker-number": "1", "worker-network-endpoints": "10.0.0.4,10.0.0.5"}
KEY = "agent-worker-number"


@contextlib.contextmanager
def server(answer, monkeypatch, flavor="Google"):
    """A metadata server that replies with what `answer` returns for a key: a status and a text."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = answer(self.path.rpartition("/")[2])
            self.send_response(status)
            self.send_header("Metadata-Flavor", flavor)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{running.server_address[1]}")
        try:
            yield
        finally:
            running.shutdown()
            thread.join()


def of_pod(key):
    return (200, POD[key]) if key in POD else (404, "")


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_worker_of_a_pod_is_told_by_its_metadata_and_no_proxy_is_asked(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    with server(of_pod, monkeypatch):
        found = find_membership({}, metadata=read_metadata)
    assert (found.platform, found.process_index, found.process_count) == ("tpu", 1, 2)


def test_only_what_is_not_found_means_that_there_is_none(monkeypatch):
    with server(lambda key: (404, ""), monkeypatch):
        assert read_metadata(KEY) is None
        assert find_membership({}, metadata=read_metadata).platform == "alone"


OTHERS = [(200, "hotel", "another server answers"), (404, "hotel", "HTTP 404 Not Found")]


@pytest.mark.parametrize(
    ("status", "flavor", "reason"),
    [(403, "Google", "HTTP 403 Forbidden"), (503, "Google", "HTTP 503"), *OTHERS],
)
def test_any_other_answer_does_not_mean_that_a_worker_is_alone(monkeypatch, status, flavor, reason):
    with server(lambda key: (status, "0"), monkeypatch, flavor), pytest.raises(MetadataError, match=reason):
        find_membership({}, metadata=read_metadata)


def test_a_server_that_is_busy_for_a_moment_is_asked_again(monkeypatch):
    answers = iter([(503, ""), (200, "1")])
    with server(lambda key: next(answers), monkeypatch):
        assert read_metadata(KEY) == "1"


@pytest.mark.parametrize(
    "facts",
    [
        {"agent-worker-number": "1"},
        {"worker-network-endpoints": "10.0.0.4,10.0.0.5"},
        {"agent-worker-number": "one", "worker-network-endpoints": "10.0.0.4"},
        {"agent-worker-number": "1", "worker-network-endpoints": ""},
    ],
)
def test_metadata_that_say_half_are_no_place(facts):
    with pytest.raises(ConfigError, match="whether it is part of a pod is not known"):
        find_membership({}, metadata=facts.get)


def test_the_command_says_in_one_line_that_nobody_answers(monkeypatch, capsys):
    monkeypatch.setattr(tpu_metadata, "_has_tpu", lambda: True)
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{closed_port()}")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "TPU_"))]:
        monkeypatch.delenv(name)
    assert tpu_launch.main(["podrl", "--config", "configs/impala_catch.py"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("podrl: error: This machine has a TPU, but its metadata server 127.0.0.1:")
    assert "Connection refused" in line
    assert "add --alone" in line
