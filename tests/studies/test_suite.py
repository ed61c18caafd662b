"""Suites of games: what is run, what is left to do, and the report; the runs were made before, or are tiny."""

import csv
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys

import pytest

from podrl.commands import study, suite
from podrl.config.user_modules import ROOT
from podrl.studies.execution import order
from podrl.studies.folder import Folder
from podrl.studies.grid import Manner
from podrl.studies.suite_protocol import describe_protocol
from podrl.studies.suite_scores import read_suite
from tests.processes import finish, num_rows, running, wait_for

ATARI = str(ROOT / "configs/impala_atari.py")
CATCH = str(ROOT / "configs/impala_catch.py")
RETURNS = {"Pong-v5": (-20.7, 14.6, 20.0), "Breakout-v5": (1.7, 30.5, 59.3)}  # Breakout's scores are 0, 1 and 2.


def command(workdir, *more, games="Pong-v5,Breakout-v5", config=ATARI):
    return ["suite.py", f"--config={config}", f"--games={games}", "--seeds=1,2,3", f"--workdir={workdir}", *more]


def leave_suite(workdir, returns=RETURNS, *more):
    """A suite whose runs are complete, as their results say."""
    flags, rest = suite.parse(command(workdir, *more))
    definition = suite.define_suite(flags, rest)
    folder = Folder(workdir)
    from podrl.studies.conduct import _examine

    points, _ = _examine(definition, Manner())
    folder.begin(definition, points, [], ["suite.py"], accept_changes=False)
    for trial in order(points, definition):
        if trial.seed <= len(returns[trial.point.config.env.id]):
            score = returns[trial.point.config.env.id][trial.seed - 1]
            protocol = describe_protocol(trial.point.config, definition.score)
            own = {"score": score, "env_steps": 100, "frames": 400}
            folder.settle(trial, "complete", {"exit_code": 0, "scores": {trial.seed: own}, "protocol": protocol})
    return folder


def read_table(workdir, name):
    return list(csv.DictReader((workdir / f"{name}.csv").read_text().splitlines()))


def test_the_report_has_every_score_and_the_statistics(tmp_path):
    leave_suite(tmp_path)
    assert suite.main(["suite.py", f"--workdir={tmp_path}", "--report_only"]) == 0
    rows = read_table(tmp_path, "scores")
    assert [row["game"] for row in rows] == ["Pong-v5"] * 3 + ["Breakout-v5"] * 3
    assert [float(row["normalised"]) for row in rows[3:]] == pytest.approx([0, 1, 2])
    found = {(row["name"], row["statistic"]): row for row in read_table(tmp_path, "aggregates")}
    pong = (20.7 - 20.7 + 14.6 + 20.7 + 20.0 + 20.7) / 3 / 35.3
    assert float(found["impala_atari", "mean"]["value"]) == pytest.approx((1 + pong) / 2, rel=1e-3)
    assert float(found["impala_atari", "mean"]["low"]) < (1 + pong) / 2 < float(found["impala_atari", "mean"]["high"])
    assert found["Cleanba PPO", "mean"]["kind"] == "published"
    assert found["Cleanba PPO", "mean"]["low"] == ""
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"aggregates", "profile", "games"}
    page = (tmp_path / "report.html").read_text()
    assert len(re.findall('src="data:image/png', page)) == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for text in ("repeat action probability</dt><dd>0.25", "20 episodes, sampled actions", "arXiv:2310.00036"):
        assert text in page, text


def test_a_game_that_failed_is_named_with_its_reason_and_left_out(tmp_path, caplog):
    folder = leave_suite(tmp_path, {"Pong-v5": (20.0, 21.0, 20.0), "Breakout-v5": ()})
    for trial in (record.trial for record in read_suite(folder, Manner()).records[3:]):
        folder.settle(trial, "failed", {"exit_code": 1, "text": "the emulator is gone"})
    assert suite.main(["suite.py", f"--workdir={tmp_path}", "--report_only"]) == 1
    assert "3 of 6 runs are not complete: Breakout-v5, seed 1 (failed)" in caplog.text
    page = (tmp_path / "report.html").read_text()
    assert "the emulator is gone" in page
    assert "Not among the statistics, for lack of a scale or of a complete run: Breakout-v5" in page


def test_another_suite_is_compared_on_the_games_that_both_have(tmp_path):
    leave_suite(tmp_path / "a", {"Pong-v5": (20.0, 19.0, 20.0), "Breakout-v5": (400.0, 300.0, 5.0)})
    leave_suite(tmp_path / "b", {"Pong-v5": (2.0, 3.0, 1.0), "Breakout-v5": (10.0, 20.0, 30.0)})
    assert suite.main(["suite.py", f"--workdir={tmp_path / 'a'}", "--report_only", f"--compare={tmp_path / 'b'}"]) == 0
    rows = read_table(tmp_path / "a", "aggregates")
    (chance,) = (row for row in rows if row["statistic"].startswith("probability"))
    assert (chance["name"], chance["statistic"]) == ("impala_atari (2)", "probability that impala_atari (1) is better")
    assert float(chance["value"]) == pytest.approx((1 + 6 / 9) / 2)


def test_suites_of_different_protocols_are_not_compared(tmp_path, capsys):
    leave_suite(tmp_path / "a")
    leave_suite(tmp_path / "b", RETURNS, "--config.env.options.repeat_action_probability=0.0")
    assert suite.main(["suite.py", f"--workdir={tmp_path / 'a'}", "--report_only", f"--compare={tmp_path / 'b'}"]) == 2
    said = capsys.readouterr().err
    assert "another protocol" in said
    assert "repeat_action_probability: here 0.25, there 0.0" in said


def test_games_without_a_scale_have_returns_and_no_statistics(tmp_path):
    config = {"games": "Catch-v0", "config": CATCH}
    flags, rest = suite.parse(command(tmp_path, **config))
    assert suite.define_suite(flags, rest).axes[0].values == (("Catch-v0",),)
    scales = tmp_path / "scales.json"
    scales.write_text(json.dumps({"Catch-v0": {"random": -1.0, "reference": -1.0}}))
    with pytest.raises(ValueError, match="random and reference of Catch-v0 are the same"):
        suite.read_scales(scales)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--games=atair57"], "'atair57' is no suite; did you mean 'atari57'?"),
        (["--games=atari5,Qbert-v5"], "Qbert-v5 twice"),
        (["--games=Pnog-v5"], "Pnog-v5"),
        (["--games=hopper"], "hopper"),
        (["--config.env.id=Pong-v5"], "env.id is what --games says in a suite"),
        (["--config.seed=3"], "seed is what --seeds says in a suite"),
        (["--config.topology.seeds=3"], "a suite takes its seeds from --seeds"),
        (["--processes=1,2"], "the runs of a suite have one number"),
        (["--slices=v5litepod-4=1x4"], "--slices is for --launch tpu"),
        (["--scales=nowhere.json"], "--scales=nowhere.json cannot be read"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_begun(tmp_path, capsys, flags, message):
    assert suite.main([*command(tmp_path / "suite"), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "suite").exists()


def test_a_scaling_study_is_no_suite(tmp_path, capsys):
    leave_suite(tmp_path)
    manifest = json.loads((tmp_path / "study.json").read_text())
    manifest["definition"]["score"] = None
    (tmp_path / "study.json").write_text(json.dumps(manifest))
    assert suite.main(["suite.py", f"--workdir={tmp_path}", "--report_only"]) == 2
    assert "is the folder of a scaling study, not of a suite" in capsys.readouterr().err


def test_a_suite_is_no_scaling_study(tmp_path, capsys):
    leave_suite(tmp_path)
    assert study.main(["scaling_study.py", f"--workdir={tmp_path}", "--report_only"]) == 2
    said = capsys.readouterr().err
    assert f"--workdir={tmp_path} is the folder of a suite, not of a scaling study" in said
    assert said.count("\n") == 1


def test_a_folder_to_compare_that_is_no_suites_is_named_by_its_flag(tmp_path, capsys):
    leave_suite(tmp_path / "a")
    leave_suite(tmp_path / "b")
    manifest = json.loads((tmp_path / "b/study.json").read_text())
    manifest["definition"]["score"] = None
    (tmp_path / "b/study.json").write_text(json.dumps(manifest))
    for name in ("nowhere", "b"):
        flags = (f"--workdir={tmp_path / 'a'}", "--report_only", f"--compare={tmp_path / name}")
        assert suite.main(["suite.py", *flags]) == 2
        assert f"error: --compare={tmp_path / name} is " in capsys.readouterr().err


@pytest.mark.parametrize("program", ["podrl suite", "tools/suite.py"])
def test_the_report_has_the_command_as_a_shell_takes_it(tmp_path, program):
    folder = leave_suite(tmp_path)
    manifest = json.loads((tmp_path / "study.json").read_text())
    manifest["starts"][0]["argv"] = [program, "--games=Pong-v5,Breakout-v5"]
    (tmp_path / "study.json").write_text(json.dumps(manifest))
    assert suite.main(["suite.py", f"--workdir={folder.path}", "--report_only"]) == 0
    page = (tmp_path / "report.html").read_text()
    python = "python " if program.endswith(".py") else ""
    assert f"<pre>{python}{program} --games=Pong-v5,Breakout-v5</pre>" in page
    assert "checkout" not in page


def scale_file(path, reference):
    path.write_text(json.dumps({game: {"random": 0.0, "reference": reference} for game in RETURNS}))
    return f"--scales={path}"


def test_scales_are_kept_with_the_report_and_those_of_a_refused_command_are_not(tmp_path, capsys):
    workdir = tmp_path / "suite"
    leave_suite(workdir)
    ten, one = scale_file(tmp_path / "ten.json", 10.0), scale_file(tmp_path / "one.json", 1.0)
    for more in ((ten,), ()):  # The second report finds them in the folder.
        assert suite.main(["suite.py", f"--workdir={workdir}", "--report_only", *more]) == 0
        assert all(float(row["normalised"]) == float(row["score"]) / 10 for row in read_table(workdir, "scores"))
    refused = (command(workdir, one, games="Pong-v5"), ["suite.py", f"--workdir={workdir}", "--report_only", one])
    for argv in (refused[0], [*refused[1], f"--compare={tmp_path / 'nowhere'}"]):
        assert suite.main(argv) == 2
        assert (workdir / "scales.json").read_text() == (tmp_path / "ten.json").read_text()
    assert "--accept_changes" in capsys.readouterr().err
    assert suite.main(command(workdir, one)) == 0
    assert (workdir / "scales.json").read_text() == (tmp_path / "one.json").read_text()


CONDUCTS = """
if __name__ == "__main__":  # Processes that this one starts import it, too.
    import json, sys
    from podrl.commands import suite
    from podrl.runtime.jax_start import jax_has_started
    from podrl.studies.conduct import _examine
    from podrl.studies.execution import order
    from podrl.studies.folder import Folder
    from podrl.studies.grid import Manner
    from podrl.studies.suite_scores import read_suite, score_run

    workdir, flags = sys.argv[1], sys.argv[2:]
    definition = suite.define_suite(*suite.parse(["suite.py", f"--workdir={workdir}", *flags]))
    suite._check_games(definition)
    points, _ = _examine(definition, Manner())
    folder = Folder(workdir)
    folder.begin(definition, points, [], ["suite.py"], accept_changes=False)
    (trial,) = order(points, definition)
    folder.run_folder(trial).mkdir(parents=True)
    row = {"learner_steps": 1, "env_steps": 1, "frames": 1, "episode/return": 2.0}
    (folder.run_folder(trial) / "metrics.jsonl").write_text(json.dumps(row) + "\\n")
    found = score_run(folder, trial)
    assert found["scores"] == {"1": {"score": 2.0, "env_steps": 1, "frames": 1}}
    assert read_suite(folder, Manner()).protocols["Breakout-MinAtar"] == found["protocol"]
    assert found["protocol"]["source"] == "gymnax"
    sys.exit(3 if jax_has_started() else 0)
"""


@pytest.mark.slow
def test_the_conductor_of_a_suite_of_jax_environments_starts_no_backend(tmp_path):
    """It would warn of forks at each run's start, and hold the accelerator that its runs need."""
    pytest.importorskip("gymnax")
    (tmp_path / "conduct.py").write_text(CONDUCTS)
    flags = ("--config=impala_minatar", "--games=Breakout-MinAtar", "--seeds=1", "--score=training")
    program = [sys.executable, tmp_path / "conduct.py", tmp_path / "suite", *flags]
    ended = subprocess.run(program, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert ended.returncode == 0


def test_seeds_of_anakin_are_trained_by_one_program(tmp_path):
    pytest.importorskip("gymnax")
    config = str(ROOT / "configs/impala_minatar.py")

    def define(*more):
        return suite.define_suite(*suite.parse([*command(tmp_path, config=config, games="minatar"), *more]))

    assert define().together
    assert not define("--config.topology.seeds=1").together
    assert not define("--seeds=1,3").together
    assert not suite.define_suite(*suite.parse(command(tmp_path))).together


TINY = (
    *(f"--config={CATCH}", "--games=Catch-v0,CartPole-v1", "--seeds=1,2", "--workdir=suite", "--score=training"),
    *("--config.total_env_steps=64_000", "--config.actors.num_envs=16", "--config.network.hidden_sizes=(16,)"),
    *("--config.network.encoder=mlp", "--config.log.every_updates=1", "--config.checkpoint.every_updates=10"),
    "--scales=scales.json",
)


@pytest.mark.slow
def test_a_real_suite_resumes_and_names_the_game_that_fails(tmp_path):
    scales = {game: {"random": 0.0, "reference": 10.0} for game in ("Catch-v0", "CartPole-v1")}
    (tmp_path / "scales.json").write_text(json.dumps(scales))
    first = tmp_path / "suite/points/1x1-env.id=Catch-v0/seed-1"
    program = ROOT / "tools/suite.py"
    with running(*TINY, cwd=tmp_path, program=program) as process:
        wait_for(lambda: num_rows(first) >= 15, process)
        process.send_signal(signal.SIGINT)
        said = finish(process)
    assert process.returncode == 130, said
    broken = tmp_path / "suite/points/1x1-env.id=CartPole-v1/seed-2"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{}")  # No run of podrl's.
    with running(*TINY, cwd=tmp_path, program=program) as process:
        said = finish(process)
    assert process.returncode == 1, said
    assert "1 of 4: resumes Catch-v0, seed 1" in said
    assert "1 of 4 runs are not complete: CartPole-v1, seed 2 (failed)" in said
    rows = read_table(tmp_path / "suite", "scores")
    assert [row["status"] for row in rows] == ["complete", "complete", "complete", "failed"]
    assert all(float(row["normalised"]) == pytest.approx(float(row["score"]) / 10) for row in rows[:3])
    before = {path: os.stat(path).st_mtime_ns for path in Path(tmp_path / "suite/points").rglob("metrics.jsonl")}
    with running(*TINY, cwd=tmp_path, program=program) as process:
        finish(process)
    assert before == {path: os.stat(path).st_mtime_ns for path in before}  # What ended is not run again.
