"""A room imports from rooms above it only; their order is the map of the code (docs/architecture.md)."""

import ast
import collections
from pathlib import Path
import re
import subprocess
import sys

import pytest

from podrl.config.programs import TOOL_FILES

ROOT = Path(__file__).parent.parent / "podrl"
ROOMS = [
    *(
        "mistakes",
        "actions",
        "types",
        "config",
        "configs",
        "mesh",
        "ops",
        "runtime",
        "networks",
        "replay",
        "agents",
        "envs",
        "data",
        "experience",
        "learning",
    ),
    *(
        "evaluation",
        "telemetry",
        "runs",
        "loops",
        "assembly",
        "saved_run",
        "recording",
        "control_data",
        "smoke_data",
        "starting",
        "train",
        "api",
        "launch",
        "studies",
    ),
    *("performance", "commands"),
]
# What starts at once, or runs where no JAX is: launchers, processes that serve a run, tools over folders of runs.
WITHOUT_JAX = [
    *(
        "podrl.__main__",
        "podrl.config.commandline",
        "podrl.launch.start",
        "podrl.launch.worker",
        "podrl.runtime.xla_flags",
    ),
    *("podrl.runtime.job.coordinator_process", "podrl.runtime.job.detection", "podrl.envs.workers.worker"),
    *("podrl.runtime.job.worker_credentials", "podrl.experience.remote"),
    *("podrl.runtime.tool", "podrl.runs.comparison_report", "podrl.runs.progress", "podrl.studies.grid"),
    "podrl.commands._simulate_flags",
    "podrl.agents.parts.loading",
]


def imports_of(path):
    """Modules that a file imports, by their dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(module):
    return module.split(".")[1]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_from_rooms_above_it(path):
    if path.parent == ROOT and path.stem in ("__init__", "__main__"):
        return
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for imported in imports_of(path):
        if imported.startswith("podrl."):
            assert ROOMS.index(room_of(imported)) <= ROOMS.index(room), f"{path} imports {imported}"


@pytest.mark.parametrize("folder", sorted({path.parent for path in ROOT.rglob("*.py")}), ids=lambda path: path.name)
def test_a_folders_own_file_says_what_it_is_for_and_nothing_else(folder):
    """Two of them have names for other programs, which they import once these are asked for."""
    tree = ast.parse((folder / "__init__.py").read_text())
    assert ast.get_docstring(tree)
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    late = {ROOT / "experience/remote": {"__getattr__"}, ROOT: {"__getattr__", "__dir__"}}
    assert len(tree.body) == 1 or defined == late.get(folder)


# Lines; of functions those beside the docstring. The loops and `train` tell a run as one story, and may be longer.
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_STORY = 250, 50, 70
STORIES = {*(f"podrl/loops/{loop}.py: run" for loop in ("sebulba", "anakin", "offline")), "podrl/train.py: train"}


def lengths(path):
    """Lines of a file and of its functions, by `file` and `file: function`, and the limit of each."""
    name, text = str(path.relative_to(ROOT.parent)), path.read_text()
    yield name, len(text.splitlines()), MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0
            function = f"{name}: {node.name}"
            limit = MOST_LINES_OF_A_STORY if function in STORIES else MOST_LINES_OF_A_FUNCTION
            yield function, node.end_lineno - node.lineno + 1 - docstring, limit


def test_files_and_functions_are_short_enough_to_be_read_at_once():
    paths = [path for folder in ("podrl", "tools") for path in sorted((ROOT.parent / folder).rglob("*.py"))]
    found = {name: f"{lines} lines" for path in paths for name, lines, limit in lengths(path) if lines > limit}
    assert not found


@pytest.mark.parametrize("module", WITHOUT_JAX)
def test_what_must_not_import_jax_does_not(module):
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


def test_a_command_is_a_module_and_a_file_in_tools_that_only_runs_it():
    commands = {path.stem for path in ROOT.glob("commands/[!_]*.py")}
    tools = {TOOL_FILES.get(command, command): command for command in commands}
    assert {path.stem for path in (ROOT.parent / "tools").glob("*.py")} == set(tools)
    for tool, command in tools.items():
        program = ast.parse((ROOT.parent / f"tools/{tool}.py").read_text())
        described = ast.parse((ROOT / f"commands/{command}.py").read_text())
        assert ast.get_docstring(program) == ast.get_docstring(described)
        assert f"from podrl.commands.{command} import main" in ast.unparse(program)
        assert not [node for node in program.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


ORBAX = ("checkpoint", "checkpoint_arrays", "checkpoint_replay")


def test_flax_stays_in_networks_and_orbax_in_three_modules_of_checkpoints():
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(import|from) flax(?! import struct)", text, re.M) or path.parent.name == "networks"
        assert not re.search(r"^\s*(import|from) orbax", text, re.M) or path.stem in ORBAX


def test_jaxs_private_api_stays_in_one_file_which_others_import_where_they_need_it():
    """A run of one process imports no line of it: see also tests/multihost/test_jax_service.py."""
    for folder in ("podrl", "tools", "configs"):
        for path in (ROOT.parent / folder).rglob("*.py"):
            text, is_it = path.read_text(), path == ROOT / "runtime/job/jax_service.py"
            found = re.findall(r"jax\._src|jaxlib\W+_?(?:import\W+)?_jax\b|\bimport _jax\b|xla_bridge", text)
            assert bool(found) == is_it, f"{path}: {found}"
            at_once = [node for node in ast.parse(text).body if "jax_service" in ast.unparse(node).partition("\n")[0]]
            assert not [node for node in at_once if isinstance(node, ast.Import | ast.ImportFrom)], path


# What is looked up by name: an algorithm's record and its factory, functions of sources and trackers, programs, loops.
INTERFACES = {
    *("AgentConfig", "make_agent", "main", "run", "SOURCE", "parse", "USAGE"),
    *("make_spec", "make_pool", "make_picture_pool", "make_environment", "make_spaces", "option_hints"),
    *("evaluation_protocol", "open_run"),
}


def test_no_two_public_things_share_a_name():
    """Commands have names alike, as others run them and do not import from them."""
    places = collections.defaultdict(list)
    for path in set(ROOT.rglob("*.py")) - set(ROOT.glob("commands/*")):
        for node in ast.parse(path.read_text()).body:
            targets = [node] if isinstance(node, ast.FunctionDef | ast.ClassDef) else getattr(node, "targets", [])
            names = [getattr(target, "name", getattr(target, "id", "_")) for target in targets]
            for name in names:
                if not name.startswith("_") and name not in INTERFACES:
                    places[name].append(str(path.relative_to(ROOT)))
    assert not {name: found for name, found in places.items() if len(found) > 1}
