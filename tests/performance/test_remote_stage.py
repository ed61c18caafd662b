"""What environment workers of a run cost: the cores of other processes, and bytes."""

import subprocess
import sys

import pytest

from podrl.config.config import ConfigError
from podrl.performance.benchmark import relations, report
from podrl.performance.benchmark.instruments import StageTime, children_core_seconds
from podrl.performance.benchmark.measure import measure_run
from podrl.performance.benchmark.remote_stage import time_workers
from podrl.performance.benchmark.stages import make_parts
from podrl.performance.benchmark.whole_run import time_end_to_end
from tests.short_runs import make_config

BUSY = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"


def test_cores_of_processes_that_were_started_count_while_they_run_and_after():
    before_s = children_core_seconds()
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        running_s = children_core_seconds()
        child.communicate(b"\n")
    assert running_s - before_s > 0.25
    assert children_core_seconds() - running_s > -0.05  # In ticks.


@pytest.mark.slow
def test_environments_in_workers_are_a_stage_with_bytes_and_the_run_has_workers_of_its_own(tmp_path):
    one_device = {f"topology__{who}_devices_per_process": 1 for who in ("actor", "learner")}
    remote = {"remote__env_workers": 2, "remote__address": f"unix:{tmp_path}/s", "remote__timeout_s": 20.0}
    parts = make_parts(make_config(**one_device, **remote))
    stage = time_workers(parts, 0.05)
    per_step = stage.wire_bytes / stage.env_steps
    observation_bytes, action_bytes = 10 * 5 * 4, 4
    assert observation_bytes + action_bytes + 9 < per_step < observation_bytes + action_bytes + 100
    whole = time_end_to_end(parts, 0.05)
    assert whole.env_steps > 0
    assert whole.wire_bytes == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"topology__placement": "anakin", "topology__seeds": 2}, "topology.seeds=2"),
        ({"remote__actor_workers": 2, "remote__timeout_s": 1.0}, "remote.actor_workers=2"),
        ({"remote__env_workers": 2, "remote__timeout_s": 1.0, "determinism": "free"}, "determinism='free'"),
    ],
)
def test_what_has_no_stages_is_said_before_anything_is_compiled(overrides, said):
    config = make_config(**overrides)
    with pytest.raises(ConfigError, match=said):
        measure_run(config, repeats=1, seconds=0.0, import_s=0.0)


def test_the_wire_is_what_a_step_takes_beside_one_here():
    def stage(core_s, wire_bytes):
        sample = StageTime(env_steps=1000, wall_s=1.0, core_s=core_s, wire_bytes=wire_bytes)
        return relations.summarize_samples([sample], 4)

    line = report.wire_line({"env": stage(0.4, 7_076_000), "local": stage(0.38, 0)})
    assert line == "Environment workers: a step takes +20.0 core-us beside a step here, and 7,076.0 bytes on the wire."


def test_environments_here_are_no_stage_of_a_run_with_workers():
    samples = {name: [StageTime(env_steps=1, wall_s=1.0, core_s=1.0)] for name in ("env", "local", "end_to_end")}
    found = relations.relate_to_stages(samples, relations.Overlap(several_pools=True, in_turn=False), 2)
    assert found["bound_env_steps_per_second"]["median"] == 1  # 2, if both were.
    costs = {name: {"core_seconds_per_env_step": {"median": 1.0}} for name in samples}
    assert report.limit_line(costs).startswith("What limits it: environments, with 100% of the core time")
