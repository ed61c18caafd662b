"""What the README and docs say to type: every command is understood, and the README's run in their smoke form.

So do the blocks of a page behind a comment `<!-- smoke -->`, one after the other in one folder.
"""

import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest

from podrl.config.programs import TOOL_FILES
from tests.processes import LIMIT_S, QUICK_TO_COMPILE, ROOT, environment, start

# Every command on these pages runs in its smoke form; those of the other pages are understood.
PAGES = ("README.md", "docs/commands.md", "docs/howto/seeds.md", "docs/howto/evaluate.md")
TEXT = "\n".join((ROOT / page).read_text() for page in PAGES)
LAUNCHER = "python tools/tpu_launch.py --config configs/impala_catch.py"
ATARI = "--config configs/impala_atari.py"
SMOKE = {
    "tpu_launch": "--smoke --workdir run",
    "benchmark": "--smoke --repeats 1 --seconds 0.2",
    "plan": "--config.smoke=true",
    "simulate": "--smoke --seconds 0.5 --updates 5 --seeds 1",
    "suite": "--dry_run",
    "scaling_study": "--processes 1 --scaling weak --seconds 1 --no_prediction",
    "evaluate": "--episodes 4",
    "record": "--steps 200 --envs 4",
    "sweep": "--trials 1 --config.smoke=true --report_every 1",
    "make_control_data": "--help",  # A run of a few updates has no expert.
    "env_worker": "--help",  # It would wait for a run.
    "actor_worker": "--help",
}
LONG = ("benchmark", "plan", "simulate", "scaling_study")  # They have quicker tests of their own.


def typed():
    """The commands of the tables and of the blocks, with `...` written out."""
    for cell in re.findall(r"^\| (.*?`.*?`.*?) \| ", TEXT, re.M):
        for code in re.findall(r"`((?:\w+=\S+ )?(?:\.\.\.|python) [^`]+)`", cell):
            yield code.replace("... ", f"{LAUNCHER} ").replace("RUN [RUN ...]", "RUN").replace("OTHER", "RUN")
    for line in re.findall(r"^(?:\$ )?((?:pip install|python) .*tools/.*)$", TEXT, re.M):
        yield line.rpartition("&& ")[2]


def shown(page):
    """The commands in the blocks of a page, with variables of the shell replaced."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", page.read_text(), re.M | re.S):
        for command in re.findall(r"python tools/[^;#\n]+", block.replace("\\\n", " ")):
            whole = command.rstrip()
            if whole.count("'") % 2:  # It stands in a command of the shell's, in quotes.
                whole = whole.rstrip("'")
            yield re.sub(r"\$\w+", "1", whole.replace("${agent}", "impala"))


def marked(page):
    """The commands of the blocks of a page that are marked to run."""
    for block in re.findall(r"^<!-- smoke -->\n```\w*\n(.*?)^```", page.read_text(), re.M | re.S):
        yield from block.replace("\\\n", " ").splitlines()


def split(command):
    """(environment variables, the tool's name, its arguments)."""
    before, _, after = command.partition("python tools/")
    tool, *arguments = shlex.split(after)
    return dict(each.split("=", 1) for each in before.split()), tool.removesuffix(".py"), arguments


COMMANDS = list(dict.fromkeys(typed()))
DOCS = sorted((ROOT / "docs").rglob("*.md"))
MARKED = {page.stem: list(marked(page)) for page in DOCS if list(marked(page))}
SHOWN = [(page.stem, each) for page in DOCS for each in dict.fromkeys(shown(page))]
# `tests/launch/test_launcher.py` runs one config for each agent and placement, and puts the others together.
RUN_ELSEWHERE = r"python tools/tpu_launch.py --config \S+( --help| --smoke)?"


def test_the_readme_has_commands_of_every_tool():
    assert len(COMMANDS) > 35
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert {split(command)[1] for command in COMMANDS} == tools


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_is_understood(command, tmp_path, monkeypatch, capsys):
    understand(command, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_every_command_of_the_docs_is_understood(page, command, tmp_path, monkeypatch, capsys):
    understand(command, tmp_path, monkeypatch, capsys)


def test_the_docs_have_commands():
    assert len(SHOWN) > 40
    assert len({page for page, _ in SHOWN}) > 8


def understand(command, folder, monkeypatch, capsys):
    """Flags and keys exist, and so do the files that it names."""
    _, tool, arguments = split(command)
    place(folder)
    monkeypatch.chdir(folder)
    commands = {file: command for command, file in TOOL_FILES.items()}
    module = importlib.import_module(f"podrl.commands.{commands.get(tool, tool)}")
    if tool == "tpu_launch":
        with pytest.raises(SystemExit) as ending:
            module.run([tool, *arguments, "--help"])
        assert ending.value.code == 0
        assert "env.id" in capsys.readouterr().out
    elif hasattr(module, "parse"):
        module.parse([tool, *arguments])


def place(folder):
    """Lets a command be typed there as in podrl's own folder."""
    for name in ("configs", "examples", "tools"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my_env.py").write_text("from tests.envs.corridor import Corridor as MyEnv\n")
    (folder / "my_network.py").write_text("from examples.transformer import Transformer as MyEncoder\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    place(folder)
    with_replay = LAUNCHER.replace("impala_catch", "impact_catch")
    result = type_in(folder, f"{with_replay} --smoke --workdir run --config.checkpoint.every_updates=2")
    assert result.returncode == 0, result.stderr
    result = type_in(folder, smoke_form("python tools/record.py --workdir RUN --out runs/catch-data", "run"))
    assert result.returncode == 0, result.stderr
    return folder / "run"


def type_in(folder, command):
    variables, tool, arguments = split(command)
    env = environment(f"{QUICK_TO_COMPILE} {variables.pop('XLA_FLAGS', '')}") | variables
    env["TRACKIO_DIR"] = str(folder / "trackio")
    process = start(
        [sys.executable, f"{ROOT}/tools/{tool}.py", *arguments], cwd=folder, env=env, stdout=subprocess.PIPE
    )
    try:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def smoke_form(command, run):
    """The same, small and in a folder of its own; what hands a job to others only says what it would do."""
    _, tool, _ = split(command)
    short = SMOKE.get(tool, "")
    if "--from_replay" in command:
        short = ""
    if "--tpu " in command:
        short = "--dry_run"
    elif "--slurm" in command:
        short += " --dry_run"
    if ATARI in command and tool == "tpu_launch":
        short += " --config.actors.num_envs=4"  # Its ResNet is slow on a CPU.
    if "--config.topology." in command and "XLA_FLAGS" not in command:  # For more devices than a laptop has.
        command = f"XLA_FLAGS=--xla_force_host_platform_device_count=4 {command}"
        short += " --config.network.hidden_sizes=256,256"  # And a network that can be split.
    command = command.replace("gs://BUCKET/RUN", "gs://BUCKET/run").replace("runs/catch", str(run))
    command = command.replace("runs/cartpole/seed-*", str(run))
    return re.sub(r"\bRUN\b(?!/)", str(run), command) + f" {short}"


# Two commands may have the same smoke form, which runs once.
MORE = list({smoke_form(each, "run"): each for each in COMMANDS if not re.fullmatch(RUN_ELSEWHERE, each)}.values())


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=pytest.mark.long if split(each)[1] in LONG else pytest.mark.slow) for each in MORE],
)
def test_every_command_of_the_readme_runs_in_its_smoke_form(command, tmp_path, run):
    place(tmp_path)
    result = type_in(tmp_path, smoke_form(command, run))
    if result.returncode == 2 and (missing := re.search(r"pip install \S+", result.stderr)):
        pytest.skip(f"wants {missing[0]}")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "page", [pytest.param(each, marks=() if each == "index" else pytest.mark.slow) for each in MARKED]
)
def test_marked_blocks_run_one_after_the_other(page, tmp_path):
    """The quick start's training comes before those of other pages, which name its run."""
    place(tmp_path)
    (tmp_path / "runs").mkdir()
    for command in MARKED[page] if page == "index" else [MARKED["index"][0], *MARKED[page]]:
        small = {"tpu_launch": " --smoke", "evaluate": " --episodes 4"}.get(split(command)[1], "")
        result = type_in(tmp_path, command + small)
        # Two runs that differ are told by the exit code of `diff`.
        said = f"{command}\n{result.stdout}\n{result.stderr}"
        assert result.returncode == ("compare_runs" in command), said
        assert "Traceback" not in result.stderr, said


def test_the_quick_start_is_marked():
    assert {split(each)[1] for each in MARKED["index"]} == {"tpu_launch", "evaluate", "plot", "compare_runs"}
    assert list(shown(ROOT / "docs/index.md")) == MARKED["index"]


def test_what_the_commands_of_the_readme_write_does_not_change_the_recorded_commit():
    """Git ignores it in podrl's own folder."""
    named = re.findall(r"(?:--out|--export|--video|--json|--workdir) ([\w/.]+)(?![\w/.:])", " ".join(COMMANDS))
    written = {name for name in named if name != "RUN"} | {"runs/impala_atari-20260101-000000", "params.safetensors"}
    assert {"curve.png", "params.npz", "catch.gif", "runs/study"} <= written
    if not (ROOT / ".git").exists() or os.environ.get("GIT_DIR"):
        pytest.skip("not in a checkout")
    for name in written:
        assert subprocess.run(["git", "check-ignore", "-q", "--no-index", name], cwd=ROOT).returncode == 0, name
