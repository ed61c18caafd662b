"""The shell commands that run on the workers of a TPU slice."""

from collections.abc import Sequence
import os
import shlex

from podrl.launch import gcloud
from podrl.launch.options import Options
from podrl.launch.shipping import Tree
from podrl.runtime.job.mtls import REQUIRED, VARIABLES
from podrl.runtime.job.secret import FILE_VARIABLE

_PROGRAM = "tools/tpu_launch.py"
_SETUP = """set -e
rm -f podrl-*.secret
mkdir -p {name} && cd {name}
[ -e .installed ] && exit 0
tar xzf ../{name}.tar.gz
python3 -m uv --version >/dev/null 2>&1 || python3 -m pip install --quiet --user uv
[ -d .venv ] || python3 -m uv venv --quiet --python 3.12 .venv
VIRTUAL_ENV="$PWD/.venv" python3 -m uv pip install --quiet -e '.[tpu]'
touch .installed"""


def setup_command(tree: Tree) -> str:
    """Returns the shell command that unpacks a shipped tree and installs it; it does nothing where that was done."""
    return _SETUP.format(name=tree.name)


def start_command(tree: Tree, run: str, arguments: Sequence[str]) -> str:
    """Returns the shell command that starts the training on a worker, or finds it running there, and follows it.

    Certificates that this launcher's variables name are files on the worker.
    """
    training = shlex.join([_PROGRAM, *arguments])
    worker = f"exec .venv/bin/python podrl/launch/worker.py run {run} .venv/bin/python {training}"
    named = [f"{name}={shlex.quote(value)} " for name in (*VARIABLES, REQUIRED) if (value := os.environ.get(name))]
    return f"cd {tree.name} && {''.join(named)}{FILE_VARIABLE}=$HOME/{secret_file(run)} {worker}"


def secret_file(run: str) -> str:
    """Returns the name of the secret's file in a worker's home."""
    return f"podrl-{run}.secret"


def list_tpu_commands(options: Options, arguments: Sequence[str], tree: Tree) -> str:
    """Returns the commands that would be run, in order; `all` marks those that run on every worker."""
    steps = []
    if options.accelerator_type is not None:
        steps.append(
            ("If there is no such TPU, or it was preempted (after deleting what is left)", gcloud.creation(options))
        )
    packed = f"{tree.name}.tar.gz"
    steps += [
        ("What git tracks, to all workers", gcloud.scp(options, "all", packed, packed)),
        ("Installed there", gcloud.ssh(options, "all", setup_command(tree))),
        (
            "A secret of this start, in a file that only its user may read, to all workers",
            gcloud.scp(options, "all", secret_file("RUN"), secret_file("RUN")),
        ),
        (
            "Started there; RUN stands for a name that every start gets, by which a worker knows it again",
            gcloud.ssh(options, "all", start_command(tree, "RUN", arguments)),
        ),
    ]
    lines = [f"cd {shlex.quote(str(tree.root))}", f"git ls-files -z | tar czf {packed} --null -T -"]
    return "".join(
        [
            "# Here:\n" + "\n".join(lines) + "\n",
            *(f"# {title}:\n{shlex.join(command)}\n" for title, command in steps),
        ]
    )
