"""The job set of docs/gke.md, as far as it can be checked without a cluster."""

import itertools
import shutil
import subprocess

import pytest

from podrl.config import commandline
from podrl.runtime.job.platforms.tpu import TPU_PORT
from podrl.runtime.job.secret import VARIABLE
from tests.processes import ROOT

yaml = pytest.importorskip("yaml")
MANIFEST = ROOT / "docs/gke-jobset.yaml"
KNOWN = {  # By the job set's definition, jobset.x-k8s.io/v1alpha2.
    "spec": {"failurePolicy", "replicatedJobs"},
    "failurePolicy": {"maxRestarts", "rules"},
    "rule": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
    "replicatedJob": {"name", "replicas", "template"},
}


@pytest.fixture
def manifest():
    return yaml.safe_load(MANIFEST.read_text())


@pytest.fixture
def job(manifest):
    (replicated,) = manifest["spec"]["replicatedJobs"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **replicated["template"]}


def test_the_set_has_known_keys_only(manifest):
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = manifest["spec"]
    assert set(spec) <= KNOWN["spec"]
    assert set(spec["failurePolicy"]) <= KNOWN["failurePolicy"]
    assert all(set(rule) <= KNOWN["rule"] for rule in spec["failurePolicy"]["rules"])
    assert all(set(replicated) <= KNOWN["replicatedJob"] for replicated in spec["replicatedJobs"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_understands_all_of_the_job(job):
    """Its own decoder refuses wrong types and drops what it does not know."""
    command = ["kubectl", "set", "env", "--local", "--filename=-", "SOME=VARIABLE", "--output=yaml"]
    result = subprocess.run(command, input=yaml.safe_dump(job), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    understood = yaml.safe_load(result.stdout)
    assert missing(job, understood) == []


def missing(wanted, found, path=""):
    """What of `wanted` is not in `found`; numbers may have become text."""
    if isinstance(wanted, dict):
        return [
            line
            for key, value in wanted.items()
            for line in ([f"{path}.{key}"] if key not in found else missing(value, found[key], f"{path}.{key}"))
        ]
    if isinstance(wanted, list):
        return [
            line
            for index, (ours, theirs) in enumerate(itertools.zip_longest(wanted, found[: len(wanted)]))
            for line in missing(ours, theirs, f"{path}[{index}]")
        ]
    return [] if str(wanted) == str(found) else [f"{path}: {found}"]


def test_the_numbers_fit_together(job):
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    chips = 1
    for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(side)
    assert spec["completions"] == spec["parallelism"]
    assert spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    assert TPU_PORT in [port["containerPort"] for port in container["ports"]]


def test_all_pods_get_the_same_secret(job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (given,) = container["env"]
    assert given == {"name": VARIABLE, "valueFrom": {"secretKeyRef": {"name": "podrl-job", "key": "secret"}}}
    page = (ROOT / "docs/gke.md").read_text()
    assert "kubectl create secret generic podrl-job --from-file=secret=/dev/stdin" in page


def test_the_command_is_one_that_podrl_takes(job, monkeypatch):
    monkeypatch.chdir(ROOT)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    python, program, *_ = container["command"]
    assert python == "python"
    assert (ROOT / program).exists()
    assert commandline.parse_command_line([program, *container["args"]]).workdir.startswith("gs://")
