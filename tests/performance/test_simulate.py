import json

import pytest

from podrl.commands import simulate as tool
from podrl.commands._simulate_flags import SimulateCommand, parse_simulate
from podrl.config.config import ConfigError
from podrl.launch.local import share_of_cores, usable_cores
from podrl.performance.composition import StageCost
from podrl.performance.planning.measurement import Measurements
from podrl.performance.planning.reduction import measure_allreduce
from tests.processes import ROOT

CONFIGS = ROOT / "configs"
CATCH = str(CONFIGS / "impala_catch.py")
ONE_DEVICE = [f"--config.topology.{who}_devices_per_process=1" for who in ("actor", "learner")]
SMALL = ["--smoke", "--seconds=0.2", "--updates=10", "--seeds=2", *ONE_DEVICE]


def command(*arguments: str) -> SimulateCommand:
    return parse_simulate(["simulate.py", f"--config={CATCH}", *arguments])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A report of a small study, measured here."""
    path = tmp_path_factory.mktemp("study") / "report.json"
    study = [*SMALL, "--hosts=1,3", "--unroll_length=5,10", f"--json={path}"]
    assert tool.main(["simulate.py", f"--config={CATCH}", *study]) == 0
    return path


def test_measures_a_host_and_simulates_more(measured):
    report = json.loads(measured.read_text())
    works = report["measurements"]["works"]
    for name in ("env", "act", "finish", "transfer", "update", "open"):
        assert works[name]["seconds"][0] > 0
        assert works[name]["cores"] >= 0
    assert min(works["act"]["cores"], works["update"]["cores"]) > 0
    # 32 environments for one actor thread with two pools; unrolls shrunk to 5 steps.
    host = {"threads": 1, "pools": 2, "envs_per_pool": 16, "unroll_length": 5, "shares_device": False}
    assert report["measurements"]["host"] == host
    study = report["study"]
    assert [row["hosts"] for row in study["rows"]] == [1, 3]
    assert study["rows"][0]["of_first"] == 1
    for row in study["rows"]:
        rate = row["env_steps_per_second"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
        assert rate["median"] == pytest.approx(row["updates_per_second"]["median"] * row["hosts"] * 32 * 5)
        assert sum(row["learner"].values()) == pytest.approx(1)
    assert [entry["unroll_length"] for entry in study["unrolls"]] == [5, 10]


def test_simulates_again_what_was_measured_before(measured, capsys):
    arguments = [*SMALL, f"--measurements={measured}", "--hosts=1,2", "--update_ms=5000", "--allreduce_ms=1000"]
    assert tool.main(["simulate.py", f"--config={CATCH}", *arguments]) == 0
    text = capsys.readouterr().out
    rows = [line.split("|")[2].split()[0] for line in text.splitlines() if line.startswith(("| 1 ", "| 2 "))]
    assert rows == [
        "32",
        "53",
    ]  # 160 env steps of a host every 5 s, and every 6: longer than a busy machine takes for them.
    assert "Lock-step: 2 hosts" in text
    assert "whose cores are 1.5 times as slow" in text
    assert "Acting during updates makes" in text


def test_flags_replace_what_was_measured(measured):
    flags = [f"--measurements={measured}", "--act_ms=2", "--stragglers=0.5:3", "--host_cores=64", *SMALL]
    asked = command(*flags, "--config.actors.lag=0", "--config.actors.env_threads=0")
    measurements = Measurements.read(measured)
    system = tool.make_system(asked, tool_config(asked), measurements)
    assert system.host.act.mean == pytest.approx(2e-3)
    assert system.host.act.cores == 0
    assert system.cores == 64
    assert system.max_lag == 0
    # 16 environments and 16 C++ threads: less work for each, and stragglers on top.
    env, steady = system.host.env, measurements.host.with_pools(16, 16 / measurements.env_threads).env
    assert env.mean == pytest.approx(2 * steady.mean)
    assert tool.make_interconnect(command("--allreduce_ms=3").flags).allreduce_s(8, 1e9) == pytest.approx(3e-3)
    link = tool.make_interconnect(command("--link_latency_us=0", "--link_gbytes_per_second=1").flags)
    assert link.allreduce_s(2, 1e9) == pytest.approx(1.0)


def tool_config(asked: SimulateCommand):
    from podrl.assembly import resolve

    return resolve(asked.config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hosts=1,x"], "--hosts=1,x must be whole numbers of at least 1, such as 1,2,4."),
        (["--stragglers=2:3"], "--stragglers=2:3 must be a probability from 0 to 1"),
        (["--stragglers=often"], "--stragglers=often must be a probability and a factor"),
        (["--slow_host=0"], "--slow_host=0.0 must be positive."),
        (["--update_ms=-1"], "--update_ms=-1.0 must be 0 or more (milliseconds)."),
        (["--json=/no/folder/x.json"], "--json=/no/folder/x.json: there is no such folder."),
        (["--smoke", "--check=1"], "--check runs jobs for --seconds, which --smoke would end before."),
        (["--measurements=a.json", "--measure"], "--measure measures anew"),
        (["--measurements=a.json", "--check=1"], "--check holds real jobs against what is measured at the same time"),
        (["--act_ms=0", "--check=1"], "--check runs real jobs on this machine, which know nothing of --act_ms."),
        (["--hots=1"], "Unknown argument '--hots=1'. See --help."),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert tool.main(["simulate.py", f"--config={CATCH}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"simulate: error: {message}")
    assert error.count("\n") == 1


def test_measurements_of_something_else_are_refused(measured, tmp_path, capsys):
    with pytest.raises(ConfigError, match="there is no such file"):
        Measurements.read(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"measurements": {"works": {}}}')
    with pytest.raises(ConfigError, match="is not what --measure"):
        Measurements.read(broken)
    other = ["simulate.py", f"--config={CONFIGS / 'impala_lunarlander.py'}", f"--measurements={measured}"]
    assert tool.main(other) == 2
    assert "is of impala_catch on Catch-v0, --config is impala_lunarlander on LunarLander-v3" in capsys.readouterr().err
    more = ["simulate.py", f"--config={CATCH}", "--config.actors.num_envs=64", f"--measurements={measured}"]
    assert tool.main(more) == 2
    assert "is of 32 environments, actors.num_envs=64. Measure this one" in capsys.readouterr().err
    inside = ["simulate.py", f"--config={CONFIGS / 'ppo_cartpole.py'}"]
    assert tool.main(inside) == 2
    assert "topology.placement=sebulba" in capsys.readouterr().err


def test_a_real_allreduce_takes_longer_with_more_bytes():
    assert measure_allreduce(1, [2**20]) == [StageCost()]
    small, large = measure_allreduce(2, [4, 2**24])
    assert 0 < small.wall_s < large.wall_s
    assert 0 < small.core_s < large.core_s


@pytest.mark.slow
def test_holds_the_simulation_against_real_jobs(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # Of this process: a job's have one device each.
    path = tmp_path / "check.json"
    arguments = ["--check=1,2", "--repeats=1", "--seconds=1", f"--json={path}", *ONE_DEVICE]
    assert tool.main(["simulate.py", f"--config={CATCH}", *arguments]) == 0
    jobs = json.loads(path.read_text())["check"]["jobs"]
    assert [job["processes"] for job in jobs] == [1, 2]
    for job in jobs:
        cores = share_of_cores(usable_cores(), 0, job["processes"], 1) or usable_cores()
        assert job["measurements"]["cores"] == len(cores)
        assert job["error"]["median"] == pytest.approx(job["simulated"]["median"] / job["measured"]["median"] - 1)
    assert [job["allreduce_s"]["median"] > 0 for job in jobs] == [False, True]
    assert "measured env steps/s" in capsys.readouterr().out
