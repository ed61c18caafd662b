"""A module imports from lower layers only; the order is the map of the code."""

import ast
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).parent.parent / "podrl"
LAYERS = [
    {"container_limits", "process_identity"},
    {"mistakes", "stop_signals"},
    {"ranges", "rows"},
    {"sections"},
    {"types", "config", "ledger", "keys", "compilation_cache", "event_file", "waiting", "wire"}
    | {"atari_scores", "console", "data", "naming", "line_file", "platforms", "units", "signal_handlers"}
    | {"hints", "intervals", "marks", "process_exit", "proxies", "rates", "streams", "tensorstore_metrics"}
    | {"user_modules", "heartbeat", "temporary"},
    {"paths", "words", "mtls"},
    {"values", "config_dict"},
    {"reading"},
    {"overrides"},
    {
        "actor_critic",
        "mesh",
        "ops",
        "networks",
        "envs",
        "gymnasium_envs",
        "commandline",
        "software",
        "fingerprint",
        "records",
        "kept_rows",
        "run_files",
        "metadata",
    }
    | {"memory", "plotting", "checkpoint_errors", "entrance", "handshake", "jax_settings", "secret"}
    | {"addresses", "jax_service", "own_credentials"},
    {
        "devices",
        "episodes",
        "agents",
        "layout",
        "metrics",
        "panel",
        "profiler",
        "schedule",
        "interruption",
        "nonfinite",
        "normalization",
    }
    | {"comparison", "endless", "retention", "export", "membership", "sharding", "state_arrays", "coordinator"},
    {"unroll", "transfer", "learner", "checkpoint_facts", "display", "workdir", "advice", "handoff", "watchdog"}
    | {"folder_guard", "absence", "launch", "tool", "coordinator_process", "coordinator_start", "place", "local_gpus"},
    {"meeting", "fused", "checkpoint_arrays", "adviser", "sizes"},
    {"distributed", "checkpoint_restore"},
    {"checkpoint", "reachability"},
    {"acting_programs", "episode_gatherer", "preflight", "consensus", "resumption", "joining"},
    {"programs", "journal", "comparison_report", "evaluate", "video"},
    {"turn", "succession"},
    {"actors"},
    {"crew", "evaluator"},
    {"progress"},
    {"sebulba", "anakin", "instruments", "inspection", "reporter"},
    {"assembly"},
    {"plain_loop"},
    {"train", "stages", "inspection_report"},
    {"planning"},
    {"benchmark", "benchmark_report", "job_benchmark", "saved_run", "evaluation_report"}
    | {"simulation_report", "study"},
    {"simulation_check", "__main__"},
]
# Within a layer modules do not see each other, but for these.
WITHIN = {("ops", "ops"), ("networks", "networks"), ("envs", "envs"), ("agents", "agents"), ("networks", "ops")} | {
    ("launch", "launch"),
    ("planning", "planning"),
    ("gymnasium_envs", "gymnasium_envs"),
    ("study", "study"),
    ("envs", "gymnasium_envs"),
}


def layer_of(module):
    (layer,) = [index for index, names in enumerate(LAYERS) if module in names]
    return layer


def imports_of(path):
    """Modules of podrl that a file imports: `podrl.envs.seeds` counts as `envs`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "podrl":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("podrl.")]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    if path == ROOT / "__init__.py":
        return
    module = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for imported in imports_of(path):
        below = layer_of(imported) < layer_of(module)
        assert below or (module, imported) in WITHIN, f"{module} imports {imported}"


def test_flax_stays_in_networks_and_orbax_in_two_modules_of_checkpoints():
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(import|from) flax(?! import struct)", text, re.M) or path.parent.name == "networks"
        assert not re.search(r"^\s*(import|from) orbax", text, re.M) or path.stem in ("checkpoint", "checkpoint_arrays")


def test_jaxs_private_api_stays_in_one_file_which_others_import_where_they_need_it():
    """A run of one process imports no line of it: see also tests/multihost/test_jax_service.py."""
    for folder in ("podrl", "tools", "configs"):
        for path in (ROOT.parent / folder).rglob("*.py"):
            text, is_it = path.read_text(), path == ROOT / "jax_service.py"
            found = re.findall(r"jax\._src|jaxlib\W+_?(?:import\W+)?_jax\b|\bimport _jax\b|xla_bridge", text)
            assert bool(found) == is_it, f"{path}: {found}"
            at_once = [node for node in ast.parse(text).body if "jax_service" in ast.unparse(node).partition("\n")[0]]
            assert not [node for node in at_once if isinstance(node, ast.Import | ast.ImportFrom)], path
