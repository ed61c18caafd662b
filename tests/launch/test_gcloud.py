"""The flags given to gcloud are those that gcloud documents."""

import contextlib
import os
import re
import shutil
import subprocess

import pytest

from podrl.launch import gcloud
from podrl.launch.options import Options

OPTIONS = Options(
    tpu="slice",
    zone="us-central1-a",
    project="lab",
    accelerator_type="v5litepod-16",
    runtime_version="v2-alpha-tpuv5-lite",
    spot=True,
)
QUEUED = Options(**{**vars(OPTIONS), "queued_resource": "queued"})
WIDE = {"--project", "--quiet", "--format"}
USED = {  # As documented by Google Cloud SDK 528; the wide ones are understood by all.
    "compute tpus tpu-vm ssh": {"--zone", "--worker", "--command"},
    "compute tpus tpu-vm scp": {"--zone", "--worker"},
    "compute tpus tpu-vm describe": {"--zone"},
    "compute tpus tpu-vm create": {"--zone", "--accelerator-type", "--version", "--spot"},
    "compute tpus tpu-vm delete": {"--zone"},
    "compute tpus queued-resources create": {
        *("--zone", "--accelerator-type", "--runtime-version", "--node-id", "--async", "--spot"),
    },
    "compute tpus queued-resources describe": {"--zone"},
    "compute tpus queued-resources delete": {"--zone", "--force"},
    "storage ls": set(),
}


def commands(monkeypatch):
    """Every command that there is."""
    asked = []

    def note(command, limit_s=0):
        asked.append(command)
        raise gcloud.GcloudError("NOT_FOUND")

    monkeypatch.setattr(gcloud, "call", note)
    gcloud.find_tpu(QUEUED)
    both = [make(options) for make in (gcloud.creation, gcloud.deletion) for options in (OPTIONS, QUEUED)]
    return [
        *asked,
        *both,
        gcloud.ssh(OPTIONS, 0, "true"),
        gcloud.scp(OPTIONS, 0, "a", "b"),
        gcloud.list_command("gs://bucket/run/", OPTIONS),
    ]


def test_only_these_flags_are_used(monkeypatch):
    found = {}
    for _, *arguments in commands(monkeypatch):
        name = next(name for name in USED if arguments[: len(name.split())] == name.split())
        found.setdefault(name, set()).update(arg.partition("=")[0] for arg in arguments if arg.startswith("--"))
    assert {name: flags - WIDE for name, flags in found.items()} == USED


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
@pytest.mark.parametrize("command", USED)
def test_gcloud_documents_them(command):
    result = subprocess.run(["gcloud", "help", *command.split()], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert USED[command] | WIDE <= set(re.findall(r"--[a-z][a-z-]*", re.sub(r"\x1b\[[\d;]*m|.\x08", "", result.stdout)))


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_takes_them_apart_as_meant(monkeypatch, tmp_path):
    """It gets as far as asking for credentials; a wrong flag ends it before, with code 2. Nothing is created."""
    for name, value in {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",  # A machine of Google's has credentials of its own.
        "CLOUDSDK_PROXY_TYPE": "http",  # And whatever it finds, it does not get out.
        "CLOUDSDK_PROXY_ADDRESS": "127.0.0.1",
        "CLOUDSDK_PROXY_PORT": "9",
    }.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith(("CLOUDSDK_AUTH", "GOOGLE_APPLICATION"))]:
        monkeypatch.delenv(name)
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        started = {command: subprocess.Popen(command, **pipes, text=True) for command in {*commands(monkeypatch)}}
        for process in started.values():
            stack.callback(process.kill)
        for command, process in started.items():
            _, stderr = process.communicate(timeout=300)
            assert process.returncode == 1, (command, stderr)
            assert "You do not currently have an active account selected" in stderr, (command, stderr)
