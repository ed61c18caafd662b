"""What a run from a data set says while it trains and in the end."""

import io
import logging
import re
import time

import pytest
from rich.console import Console

from podrl import train
from podrl.data.reader import HostSampler
from podrl.telemetry.bottleneck import BottleneckFinder
from podrl.telemetry.offline_rules import advise_offline
from podrl.telemetry.panel import Progress, make_panel, plain_line
from podrl.telemetry.readable import short_number
from tests.offline_runs import offline_config, write_pendulum
from tests.processes import read_rows
from tests.telemetry.test_bottleneck import GPU, LAPTOP, _situation

ROW = {
    "learner_steps": 120,
    "env_steps": 0,
    "frames": 0,
    "env_steps_per_second": 0.0,
    "frames_per_second": 0.0,
    "data/samples_per_second": 29_646.2,
    "loss/total": 1.234,
    "grad/norm": 0.5,
    "time/learner/learn": 0.6,
    "time/learner/wait_data": 0.4,
    "time/data/read": 0.7,
    "time/data/wait_learner": 0.3,
}


class TestAdvice:
    @pytest.mark.parametrize(
        ("threads", "settings", "expected"),
        [
            (
                {"learner": {"wait_data": 0.4, "learn": 0.6}, "data": {"read": 0.9, "gather": 0.1}},
                {"data__window": 100, "data__window_updates": 3},
                r"^waits 40% for data: the data reader spends 90% in read.*: larger data\.window_updates \(now 3\)",
            ),
            (
                {"learner": {"wait_data": 0.4, "learn": 0.6}, "data": {"gather": 0.8, "read": 0.2}},
                {},
                r"^waits 40% for data: the data reader spends 80% in gather.*: data\.memory=device .*; or smaller ",
            ),
            (
                {"learner": {"wait_data": 0.4, "learn": 0.6}, "data": {"gather": 0.4, "wait_learner": 0.6}},
                {},
                r"^waits 40% for data: .*: larger data\.prefetch \(now 2\), as reads come in bursts",
            ),
            (
                {"learner": {"wait_data": 0.1, "learn": 0.8, "log": 0.1}, "data": {"wait_learner": 1.0}},
                {},
                r"^learner learns 80% of its time, and waits 10% for data.*: larger log\.every_updates \(now 1\)",
            ),
        ],
    )
    def test_names_what_the_learner_waits_for(self, tmp_path, threads, settings, expected):
        config = offline_config(tmp_path, **settings)
        for machine in (LAPTOP, GPU):
            situation = _situation({"actors": {}, **threads}, machine)
            advice = str(advise_offline(type(situation)(**{**vars(situation), "config": config})))
            assert re.search(expected, advice), advice
            assert "\n" not in advice
            assert "actors." not in advice

    def test_a_run_whose_learner_waits_says_so_once(self, tmp_path, monkeypatch, caplog):
        samples = HostSampler.samples

        def slow(self, update):
            time.sleep(0.05)
            return samples(self, update)

        monkeypatch.setattr(HostSampler, "samples", slow)
        monkeypatch.setattr(
            "podrl.telemetry.reporter.BottleneckFinder", lambda *args: BottleneckFinder(*args, after_s=0.3)
        )
        config = offline_config(
            write_pendulum(tmp_path / "set"), total_updates=20, topology__learner_devices_per_process=1
        )
        with caplog.at_level(logging.INFO, logger="absl"):
            train.train(config, workdir=str(tmp_path / "run"))
        said = [text for text in caplog.messages if text.startswith("What limits the speed: ")]
        (line,) = said
        assert re.search(r"What limits the speed: waits \d\d% for data: the data reader spends \d\d% in gather", line)


def test_the_last_lines_have_the_score_and_the_time_of_all_starts(tmp_path, capsys):
    settings = {"evaluate__every_updates": 3, "evaluate__greedy": True, "evaluate__episodes": 2}
    one_device = {"topology__learner_devices_per_process": 1}
    config = offline_config(write_pendulum(tmp_path / "set"), **settings, **one_device)
    train.train(config, workdir=str(tmp_path / "run"))
    first = capsys.readouterr().out
    score = next(row["evaluate/return"] for row in reversed(read_rows(tmp_path / "run")) if "evaluate/return" in row)
    (line,) = re.findall(r"^  return +(.*)$", first, re.MULTILINE)
    assert line == f"{short_number(score)} (greedy, mean of 2 episodes, update 6)"
    assert re.search(r"^  wall time  [\d.]+ s$", first, re.MULTILINE)
    assert first.count("compiling:") == 1
    assert "of which compiling" not in first
    train.train(config, workdir=str(tmp_path / "run"))
    again = capsys.readouterr().out
    assert f"  return     {line}" in again.splitlines()
    assert re.search(r"^  wall time  .* of this start, .* in all$", again, re.MULTILINE)


class TestPanel:
    def test_it_counts_updates_and_samples_and_nothing_of_actors(self):
        progress = Progress(200, 61.0, 40.0, "learner_steps")
        console = Console(file=io.StringIO(), width=100, record=True)
        console.print(make_panel("sac on Pendulum-v1", "/runs/x", ROW, progress, None, 100))
        lines = [re.sub(r"\s+", " ", line.strip("\u2502 \n")) for line in console.export_text().splitlines()]
        assert any(line.endswith("60.0% 1 min 1 s elapsed 40.0 s left") for line in lines)
        assert "updates 120 / 200 29,646 samples/s loss 1.23 gradient 0.50" in lines
        assert "learner learn 60% wait_data 40%" in lines
        assert "data read 70% wait_learner 30%" in lines
        assert not re.search("env steps|frames|return|actors", " ".join(lines))

    def test_its_line_in_a_log_file(self):
        line = plain_line(ROW, Progress(200, 61.0, 40.0, "learner_steps"))
        assert line == (
            "update 120  (60.0%)  29,646 samples/s  loss 1.23  learner: learn 60% wait_data 40%"
            "  data: read 70% wait_learner 30%  eta 40.0 s"
        )
