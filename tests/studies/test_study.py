"""The command over runs that were made before: nothing is left to be run, but all to be taken in and written up."""

import csv
import dataclasses
from html.parser import HTMLParser
import json
import math
import re
import shutil
import sys

import numpy as np
import pytest

from podrl.commands import study as scaling_study
from podrl.runtime.job.secret import EXPORT
from podrl.studies import conduct
from podrl.studies.feasibility import examine
from podrl.studies.folder import Folder, Status
from podrl.studies.grid import Trial, make_axis
from podrl.studies.measurement import measure_rows
from podrl.studies.summary import RunRecord, collect, estimate, estimate_ratio, summarize_points
from podrl.studies.table import make_run_table
from tests.studies.studies import command, define, leave_run, leave_runs, make_rows, study

RATES = {"weak-1x1": (1000, 1200), "weak-2x1": (1900, 2100), "strong-1x1": (1000, 1000), "strong-2x1": (1200, 1300)}


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "study"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A study that is complete; to be read only."""
    workdir = tmp_path_factory.mktemp("measured") / "study"
    leave_runs(workdir, RATES)
    assert study(workdir) == 0
    return workdir


@pytest.fixture
def own(measured, workdir):
    """A copy of it, to go on with."""
    shutil.copytree(measured, workdir)
    return workdir


@pytest.fixture
def quick_figures(measured, monkeypatch):
    """The figures of that study, in place of those that a test would draw anew and not look at."""
    figures = {path.stem: path.read_bytes() for path in (measured / "figures").iterdir()}
    monkeypatch.setattr(conduct, "draw_all", lambda summaries: figures)


def read_table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_there_is_a_row_for_each_run(measured):
    rows = read_table(measured / "runs.csv")
    assert [(row["point"], row["seed"]) for row in rows] == [(point, seed) for point in RATES for seed in ("1", "2")]
    assert {row["status"] for row in rows} == {"complete"}
    for row in rows:
        rate = RATES[row["point"]][int(row["seed"]) - 1]
        assert float(row["env_steps_per_second"]) == pytest.approx(rate, rel=1e-4)
        assert row["num_envs"] == ("32" if row["point"] == "weak-2x1" else "16")
        assert float(row["time/learner/learn"]) == pytest.approx(0.5)
        assert float(row["lag_mean"]) == 1


@pytest.mark.parametrize("who", [["learner"], ["learner", "actors"]])
def test_only_threads_that_there_are_have_columns(workdir, who):
    """Environments in the compiled program have no actor threads."""
    left = leave_run(workdir, "weak-1x1", 1, [])
    measured = measure_rows(make_rows(1000), 3)
    times = {bucket: share for bucket, share in measured.time.items() if bucket.partition("/")[0] in who}
    facts = {"measurement": dataclasses.asdict(dataclasses.replace(measured, time=times))}
    (left / "result.json").write_text(json.dumps(facts))
    records = collect(Folder(workdir), examine(define(), "cpu")[0][:1], [1])
    (row,) = make_run_table(records, summarize_points(records))
    assert {name.split("/")[1] for name in row if name.startswith("time/")} == set(who)


def test_efficiency_is_relative_to_the_smallest_point(measured):
    rows = {(row["point"], row["seed"]): row for row in read_table(measured / "runs.csv")}
    assert float(rows["weak-2x1", "1"]["speedup"]) == pytest.approx(1900 / 1100, rel=1e-4)
    assert float(rows["weak-2x1", "1"]["efficiency"]) == pytest.approx(1900 / 1100 / 2, rel=1e-4)
    points = {row["point"]: row for row in read_table(measured / "points.csv")}
    strong = points["strong-2x1"]
    assert float(strong["efficiency"]) == pytest.approx(1.25 / 2, rel=1e-4)
    width = 12.706 * 0.05  # Student's t of one degree of freedom; the standard error of 1.2 and 1.3.
    assert float(strong["efficiency_low"]) == pytest.approx((1.25 - width) / 2, rel=1e-3)
    assert float(strong["efficiency_high"]) == pytest.approx((1.25 + width) / 2, rel=1e-3)


def test_the_manifest_says_what_was_run(measured):
    manifest = json.loads((measured / "study.json").read_text())
    assert [point["name"] for point in manifest["points"]] == list(RATES)
    assert manifest["definition"]["seeds"] == [1, 2]
    assert manifest["config"]["env"]["id"] == "Catch-v0"
    (start,) = manifest["starts"]
    assert start["argv"] == command(measured)
    assert {"jax", "flax", "numpy"} <= start["versions"].keys()


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_report_needs_nothing_beside_it(measured):
    text = (measured / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.references) == 2
    assert all(reference.startswith("data:image/png;base64,iVBOR") for reference in page.references)
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_the_report_answers_in_sentences(measured):
    text = " ".join(Page((measured / "report.html").read_text()).texts)
    assert "Strong scaling: 2 processes make 1.25x the env steps per second of 1 process (1,250 against 1,000)" in text
    assert "an efficiency of 62 % (31 to 94)" in text
    assert "the learner's thread spends 50 % in learn and 50 % in wait_rollouts" in text
    assert "With so few they are rough" in text
    assert "--processes=1,2" in text
    assert "What is missing" not in text


def test_figures_are_images(measured):
    names = sorted(path.name for path in (measured / "figures").iterdir())
    assert names == ["throughput.png", "time.png"]
    for path in (measured / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_complete_runs_are_skipped(own, quick_figures):
    for path in (own / "points").glob("*/*/metrics.jsonl"):
        path.write_text(path.read_text().splitlines(keepends=True)[0])  # Would not be enough to be taken in again.
    before = {path: path.read_bytes() for path in (own / "points").glob("*/*/result.json")}
    assert study(own) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert not list((own / "points").glob("*/*/job.log"))
    assert len(json.loads((own / "study.json").read_text())["starts"]) == 2


def test_failed_runs_do_not_end_a_study_and_are_named(workdir, caplog, request):
    """The third point has a run of another config in its folder, which the launcher refuses."""
    leave_runs(workdir, {name: rates[:1] for name, rates in RATES.items() if name != "strong-1x1"})
    leftover = leave_run(workdir, "strong-1x1", 1, [])
    assert study(workdir, "--seeds=1") == 1
    rows = {row["point"]: row for row in read_table(workdir / "runs.csv")}
    failed = rows["strong-1x1"]
    assert (failed["status"], failed["exit_code"]) == ("failed", "2")
    assert "holds a run of another config" in failed["message"]
    assert rows["strong-2x1"]["status"] == "complete"
    assert rows["strong-2x1"]["efficiency"] == ""  # There is nothing to compare with.
    text = (workdir / "report.html").read_text()
    assert "strong-1x1, seed 1: failed, exit code 2: podrl: error: " in text
    assert "1 of 4 runs are not complete: strong-1x1, seed 1 (failed)" in caplog.text

    request.getfixturevalue("quick_figures")
    (leftover / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_rows(1000)))
    assert study(workdir, "--seeds=1") == 1
    assert study(workdir, "--seeds=1", "--retry_failed") == 0
    assert "What is missing" not in (workdir / "report.html").read_text()


def test_a_study_of_another_grid_is_a_mistake(own, capsys):
    assert study(own, "--seeds=1,2,3", "--processes=1", "--axis=network.width=1,2", "--split=1:1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    for change in (
        "holds a study of another grid: ",
        "--seeds: found 1,2, asked for 1,2,3",
        "--processes x --devices_per_process: found 1x1,2x1, asked for 1x1",
        "--axis network.width: found none, asked for 1,2",
        "--split: found none, asked for 1:1",
        ". Add --accept_changes to continue in it with the grid asked for",
    ):
        assert change in line
    assert "--scaling" not in line
    fewer = [*command(own), "--seeds=1", "--accept_changes"]
    assert scaling_study.main(fewer) == 0
    assert len(read_table(own / "runs.csv")) == 4


def test_another_config_is_a_mistake_whatever_is_accepted(own, capsys):
    assert study(own, "--config.agent.optimizer.learning_rate=0.1", "--seconds=6", "--accept_changes") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds another study: " in line
    assert "--seconds: found 5.0, asked for 6.0" in line
    assert re.search(r"--config\.agent\.optimizer\.learning_rate: found 0\.\d+, asked for 0\.1\b", line)
    assert line.endswith(". Give the values that it has, or choose another --workdir.")
    assert study(own, "--config.agent.optimizer.learning_rate=0.1", "--seeds=1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--config.agent.optimizer.learning_rate: found the config file's, asked for 0.1; --seeds: found 1,2" in line
    assert "(--accept_changes is for the grid only)" in line


def test_the_report_can_be_written_anew(own, quick_figures):
    (own / "report.html").unlink()
    assert scaling_study.main(["scaling_study.py", f"--workdir={own}", "--report_only"]) == 0
    assert (own / "report.html").exists()


def test_predictions_are_beside_the_measurements(workdir, monkeypatch):
    asked = []

    def predict(config, processes, devices_per_process):
        asked.append((config.actors.num_envs, processes, devices_per_process))
        return 1000.0 * processes if processes < 2 else None

    monkeypatch.setattr(scaling_study, "find_predictor", lambda flags: predict)
    leave_runs(workdir, RATES)
    assert study(workdir) == 0
    assert (32, 2, 1) in asked
    assert asked.count((16, 1, 1)) == 2  # Of two points, and not again for a second seed.
    points = {row["point"]: row["predicted_env_steps_per_second"] for row in read_table(workdir / "points.csv")}
    assert points == {"weak-1x1": "1000.0", "weak-2x1": "", "strong-1x1": "1000.0", "strong-2x1": ""}
    cells = " ".join(Page((workdir / "report.html").read_text()).texts)
    assert "predicted" in cells.split("speed-up")[0].split("env steps/s")[-1]  # A column of the table.


def test_intervals_are_of_the_mean():
    values = np.random.default_rng(1).normal(10, 2, 100)
    found = estimate(values)
    assert found.mean == pytest.approx(values.mean())
    expected = 1.96 * values.std() / 10  # Of the normal approximation.
    assert found.high - found.mean == pytest.approx(expected, rel=0.1)
    assert found.mean - found.low == pytest.approx(expected, rel=0.1)


def test_rates_and_their_ratios_are_not_below_0():
    values = [10.0, 90.0]
    assert estimate(values).low < 0  # Of a return, which may be.
    assert estimate(values, least=0.0).low == 0
    assert estimate_ratio(values, [50.0, 52.0]).low == 0
    assert math.isnan(estimate_ratio(values, [0.0, 0.0]).mean)


def test_one_run_has_no_interval():
    assert (estimate([3.0]).low, estimate_ratio([3.0, 4.0], [1.0]).high) == (None, None)


def test_ratios_know_the_error_of_both_sides():
    both = estimate_ratio([20.0, 21.0, 22.0], [9.0, 10.0, 11.0])
    above = estimate_ratio([20.0, 21.0, 22.0], [10.0, 10.0, 10.0])
    assert both.mean == above.mean == pytest.approx(2.1)
    assert both.high - both.low > 1.5 * (above.high - above.low) > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.actors.num_envs=3"], "Point weak-1x1 cannot be run: actors.num_envs=3 does not divide"),
        (["--scaling=other"], "--scaling=other must be weak, strong or weak,strong."),
        (["--seeds=1,1"], "--seeds=1,1 must be different whole numbers of at least 0"),
        (["--processes=0"], "--processes=0 must be different whole numbers of at least 1"),
        (["--axis=seed=1,2"], "seed is what --seeds says in a study."),
        (["--nodes=3"], "Unknown argument '--nodes=3'."),
        (["--zone=z"], "--zone is for --launch tpu. Add that, or drop --zone."),
        (["--slices=v5e=1x4"], "--slices is for --launch tpu."),
        (["--launch=tpu"], "--launch tpu needs --slices"),
        (["--device=cpu"], "--device is for --launch slurm."),
        (["--config=configs/absent.py"], "Config file configs/absent.py does not exist"),
        (["--table=parquet"], "--table parquet needs pyarrow"),
    ],
)
def test_mistakes_are_one_line_and_start_nothing(workdir, capsys, monkeypatch, more, message):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert study(workdir, *more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("study: error: ")
    assert message in line
    assert not workdir.exists()


def test_points_that_cannot_be_run_may_be_left_out(workdir):
    leave_runs(workdir, {name: rates for name, rates in RATES.items() if name != "strong-2x1"})
    overrides = ["--config.actors.num_envs=2", "--skip_invalid"]  # Two environments do not divide over four pools.
    assert study(workdir, *overrides) == 0
    assert {row["point"] for row in read_table(workdir / "runs.csv")} == {"weak-1x1", "weak-2x1", "strong-1x1"}
    assert "strong-2x1: left out: actors.num_envs=2 does not divide" in (workdir / "report.html").read_text()


def test_dry_run_prints_each_command(workdir, capsys):
    assert study(workdir, "--dry_run", "--axis=network.width=1,2") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert len(lines) == 2 * 2 * 2 * 2
    assert "--local_processes=2 --devices_per_process=1" in lines[1]
    for part in ("--config.network.width=1", "--config.actors.num_envs=32", "--config.seed=1"):
        assert part in lines[1].split()
    assert not workdir.exists()


def test_dry_run_for_slurm_says_once_how_to_make_the_secret(workdir, capsys):
    assert study(workdir, "--dry_run", "--launch=slurm", "--device=cpu", "--cpus_per_task=1") == 0
    printed = capsys.readouterr().out
    assert printed.count(f"\n{EXPORT}\n") == 1
    assert printed.index(EXPORT) < printed.index("# 0: ")


def test_a_busy_machine_is_told_of(workdir, monkeypatch, quick_figures):
    monkeypatch.setattr("os.getloadavg", lambda: (500.0, 500.0, 500.0))
    leave_runs(workdir, RATES)
    assert study(workdir) == 0
    assert "busy with other work (load average 500.0 on" in (workdir / "report.html").read_text()


def test_a_study_without_a_complete_run_says_so(workdir, caplog):
    """All runs failed before, and are not tried again."""
    for scaling in ("weak", "strong"):
        for seed in (1, 2):
            folder = leave_run(workdir, f"{scaling}-1x1", seed, [])
            (folder / "failed.json").write_text(json.dumps({"ended": "", "exit_code": 1, "text": "out of luck"}))
    assert study(workdir, "--processes=1") == 1
    text = (workdir / "report.html").read_text()
    assert "No run is complete, so there is no answer yet." in text
    assert "4 failed" in text
    assert [row["message"] for row in read_table(workdir / "runs.csv")] == ["out of luck"] * 4
    assert read_table(workdir / "points.csv") == []
    assert "4 of 4 runs are not complete: weak-1x1, seed 1 (failed); weak-1x1, seed 2 (failed); " in caplog.text


@pytest.mark.parametrize(("values", "kind"), [("1,2", int), ("0.5,1", float), ("none,1", str)])
def test_an_axis_is_of_one_type(workdir, values, kind):
    axis = make_axis(f"network.width={values}")
    records = [
        RunRecord(
            trial=Trial(point=dataclasses.replace(point, settings={"network.width": value}), seed=1),
            status=Status(word="not begun", facts={}),
            folder="",
        )
        for (value,) in axis.values
        for point in examine(define(), "cpu")[0]
    ]
    rows = make_run_table(records, [])
    assert {type(row["network.width"]) for row in rows} == {kind}
    assert len({frozenset(row) for row in rows}) == 1


def test_a_split_is_an_axis_of_acting_and_learning_devices(workdir, capsys):
    """Of four devices in each of two processes; three learners want a multiple of three environments."""
    more = ["--devices_per_process=4", "--split=1:3,2:2", "--config.actors.num_envs=48", "--scaling=weak", "--seeds=1"]
    assert study(workdir, *more, "--config.actors.num_envs=48", "--dry_run") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    keys = ("actors.num_envs", "topology.actor_devices_per_process", "topology.learner_devices_per_process")
    found = [[word.partition("=")[2] for key in keys for word in line if f"--config.{key}=" in word] for line in lines]
    assert found == [["48", "1", "3"], ["96", "1", "3"], ["48", "2", "2"], ["96", "2", "2"]]
