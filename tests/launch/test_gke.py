"""The job sets of docs/gke.md, as far as it can be checked without a cluster."""

import itertools
import shutil
import subprocess

import pytest

from podrl.commands import env_worker
from podrl.config import commandline
from podrl.experience.remote.endpoint import address_of_process
from podrl.runtime.job.platforms.tpu import TPU_PORT
from podrl.runtime.job.secret import VARIABLE
from tests.processes import ROOT

yaml = pytest.importorskip("yaml")
FILES = {"slice": ROOT / "docs/gke-jobset.yaml", "workers": ROOT / "docs/gke-workers-jobset.yaml"}
KNOWN = {  # By the job set's definition, jobset.x-k8s.io/v1alpha2.
    "spec": {"failurePolicy", "replicatedJobs", "successPolicy"},
    "successPolicy": {"operator", "targetReplicatedJobs"},
    "failurePolicy": {"maxRestarts", "rules"},
    "rule": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
    "replicatedJob": {"name", "replicas", "template"},
}


@pytest.fixture(params=FILES)
def manifest(request):
    return yaml.safe_load(FILES[request.param].read_text())


@pytest.fixture
def job(manifest):
    return jobs_of(manifest)[0]


def jobs_of(manifest):
    """The slice, and after it the environment workers if there are some."""
    templates = [replicated["template"] for replicated in manifest["spec"]["replicatedJobs"]]
    return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **each} for each in templates]


def arguments_of(job):
    """The command without the shell that may come before it."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words = [*container["command"], *container["args"]]
    return words[words.index("python") :]


def test_the_set_has_known_keys_only(manifest):
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = manifest["spec"]
    assert set(spec) <= KNOWN["spec"]
    assert set(spec["failurePolicy"]) <= KNOWN["failurePolicy"]
    assert set(spec.get("successPolicy", ())) <= KNOWN["successPolicy"]
    assert all(set(rule) <= KNOWN["rule"] for rule in spec["failurePolicy"]["rules"])
    assert all(set(replicated) <= KNOWN["replicatedJob"] for replicated in spec["replicatedJobs"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize(("file", "number"), [("slice", 0), ("workers", 0), ("workers", 1)])
def test_kubectl_understands_all_of_the_job(file, number):
    """Its own decoder refuses wrong types and drops what it does not know."""
    job = jobs_of(yaml.safe_load(FILES[file].read_text()))[number]
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
    assert given["name"] == VARIABLE
    secret = given["valueFrom"]["secretKeyRef"]
    assert secret["key"] == "secret"
    assert f"kubectl create secret generic {secret['name']} --from-file=" in (ROOT / "docs/gke.md").read_text()


def test_the_command_is_one_that_podrl_takes(job, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, program, *arguments = arguments_of(job)
    assert (ROOT / program).exists()
    assert commandline.parse_command_line([program, *arguments]).workdir.startswith("gs://")


def test_workers_come_to_the_hosts_of_the_slice_with_its_credentials():
    slice_, workers = jobs_of(manifest := yaml.safe_load(FILES["workers"].read_text()))
    _, program, *arguments = arguments_of(workers)
    assert (ROOT / program).exists()
    flags = env_worker.parse([program, *arguments])
    _, program, *arguments = arguments_of(slice_)
    remote = commandline.parse_command_line([program, *arguments]).config.remote
    hosts, name = slice_["spec"]["completions"], manifest["metadata"]["name"]
    listening = [address_of_process(remote.address, host, hosts).rpartition(":")[2] for host in range(hosts)]
    expected = [f"{name}-slice-0-{host}.{name}:{port}" for host, port in enumerate(listening)]
    assert flags.connect.split(",") == expected
    assert flags.worker_certificates == remote.certificates
    assert workers["spec"]["completions"] == workers["spec"]["parallelism"] == remote.env_workers
    assert remote.env_workers % hosts == 0
    volumes = [job["spec"]["template"]["spec"]["volumes"] for job in (slice_, workers)]
    assert volumes[0] == volumes[1] == [{"name": "credentials", "secret": {"secretName": "podrl-credentials"}}]
