"""Numbers of environments' `info` in whole runs: rows, resuming, evaluations, the terminal, plots."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from podrl import train
from podrl.commands import evaluate, plot
from podrl.config.config import ConfigError
from podrl.runs.checkpoint_errors import DamagedError
from podrl.runs.checkpoint_facts import read_facts
from podrl.runs.curves import read_curve
from podrl.telemetry.panel import Progress, make_panel, plain_line
from tests import short_runs
from tests.faults.checkpoints import unseal
from tests.processes import ROOT, launch, read_rows
from tests.short_runs import facts
from tests.telemetry.test_display import ROW

pytestmark = pytest.mark.usefixtures("compiled_once")

KEYS = ("success", "max:success", "sum:parts/a", "last")
PREFIX = "episode/info/"


def make_config(**overrides):
    """Eight environments of `tests.envs.informed` in lock-step: episodes of 1, 2, 4, 1, ... steps."""
    settings = {"env__source": "gymnasium", "log__info_keys": KEYS, "log__tensorboard": False}
    settings |= {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
    return short_runs.make_config("tests.envs.informed:Informed", **settings | overrides)


def numbers_of(row, prefix=PREFIX):
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def rows():
    return short_runs.run(make_config())[1]


class TestRows:
    def test_by_hand(self, rows):
        """Updates of 4 steps; of those of the fourth to twelfth, each environment ends episodes of 1, 2, 4, 1 steps."""
        shown = [numbers_of(row) for row in rows[:3]]
        means = {"success": (0.5, 0.5, 0.25), "max:success": (0.5, 0.5, 0.5), "sum:parts/a": (2.0, 2.0, 15 / 4)}
        for name, expected in means.items():
            assert tuple(numbers[name] for numbers in shown) == expected, name
        assert [row["episode/count"] for row in rows[:3]] == [16, 16, 32]
        # `last` is the environment's number plus the episode's, from 0; the third episode has none.
        assert shown[2]["last"] - shown[0]["last"] == pytest.approx((0 + 1 + 3) / 3 - (0 + 1) / 2)

    def test_only_the_newest_episodes_count(self):
        _, rows = short_runs.run(make_config(log__episodes=8))
        assert numbers_of(rows[0])["sum:parts/a"] == 3.0
        assert numbers_of(rows[2])["sum:parts/a"] == 1.0

    def test_a_number_is_absent_before_the_first_episode_that_has_it(self):
        _, rows = short_runs.run(make_config(env__options={"lengths": (6, 1)}))
        assert numbers_of(rows[0]) == {}
        assert numbers_of(rows[1])["sum:parts/a"] == 11.0  # (21 + 1) / 2

    @pytest.mark.parametrize(
        ("changes", "devices"),
        [
            ({"env__workers": 2}, 1),
            ({"env__options": {"truncates": True}, "actors__pools_per_thread": 1}, 1),
            ({"topology__actor_devices_per_process": 2, "topology__learner_devices_per_process": 2}, 4),
        ],
    )
    def test_who_steps_the_environments_changes_nothing(self, rows, changes, devices):
        if "env__options" in changes:  # A truncation shows one step later.
            rows = short_runs.run(make_config(env__options=changes["env__options"]))[1]
        _, others = short_runs.run(make_config(**changes), devices)
        assert [numbers_of(row) for row in others] == [numbers_of(row) for row in rows]

    def test_they_change_nothing_else(self, rows):
        _, without = short_runs.run(make_config(log__info_keys=()))
        assert facts(without) == [{k: v for k, v in row.items() if not k.startswith(PREFIX)} for row in facts(rows)]


class TestResuming:
    CHANGES = {"checkpoint__every_updates": 4, "total_env_steps": 12 * 8 * 4, "log__episodes": 100}  # noqa: RUF012

    def test_a_run_that_was_stopped_has_the_same_numbers(self, tmp_path):
        config = make_config(**self.CHANGES)
        train.train(config, workdir=str(tmp_path / "straight"))
        stopped = tmp_path / "stopped"

        def should_stop():
            path = stopped / "metrics.jsonl"
            return path.exists() and len(path.read_text().splitlines()) >= 5

        assert train.train(config, workdir=str(stopped), stop_code=should_stop).counters.learner_steps < 12
        train.train(config, workdir=str(stopped))
        straight = facts(read_rows(tmp_path / "straight"))
        assert facts(read_rows(stopped)) == straight
        assert len(numbers_of(straight[-1])) == len(KEYS)
        numbers = read_facts(stopped, 12).episodes["numbers"]
        assert len(numbers) == 100
        assert all(set(KEYS[:3]) <= set(own) for own in numbers)

    def test_a_run_from_before_the_keys_counts_its_episodes_for_none(self, tmp_path):
        config = make_config(**self.CHANGES | {"total_env_steps": 4 * 8 * 4, "log__info_keys": ()})
        train.train(config, workdir=str(tmp_path))
        assert read_facts(tmp_path, 4).episodes.keys() == {"newest", "count"}
        longer = make_config(**self.CHANGES | {"total_env_steps": 5 * 8 * 4})
        with pytest.raises(ConfigError, match=r"total_env_steps was 128, is 160\."):  # The keys are no other run.
            train.train(longer, workdir=str(tmp_path))
        train.train(longer, workdir=str(tmp_path), accept_changes=True)
        last = read_rows(tmp_path)[-1]
        assert numbers_of(last)["sum:parts/a"] == 2.0  # Of the episodes of 1 and 2 steps since then.
        assert last["episode/count"] > 16


@pytest.mark.parametrize("numbers", [{}, [], [{"success": "1"}], ["success"]])
def test_a_checkpoint_with_other_numbers_is_damaged(tmp_path, numbers):
    train.train(make_config(total_env_steps=8 * 4, log__episodes=1), workdir=str(tmp_path))
    file = tmp_path / "checkpoints/1/episodes/metadata"
    episodes = json.loads(file.read_text())
    assert [own.keys() for own in episodes["numbers"]] == [set(KEYS)]
    unseal(tmp_path / "checkpoints/1")
    file.write_text(json.dumps(episodes | {"numbers": numbers}))
    with pytest.raises(DamagedError, match="numbers of its episodes are no list"):
        read_facts(tmp_path, 1)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The folder of a run with an evaluation."""
    folder = tmp_path_factory.mktemp("evaluated")
    changes = {"evaluate__every_updates": 10, "evaluate__episodes": 40, "env__workers": 2}
    train.train(make_config(**changes, log__tensorboard=True), workdir=str(folder))
    return folder


class TestEvaluation:
    def test_its_rows_have_them(self, evaluated):
        """20 environments play two episodes each, of 1 and 2 steps."""
        (row,) = [row for row in read_rows(evaluated) if "evaluate/return" in row]
        numbers = numbers_of(row, "evaluate/info/")
        assert list(numbers) == sorted(KEYS)
        assert (numbers["success"], numbers["max:success"], numbers["sum:parts/a"]) == (0.5, 0.5, 2.0)

    def test_the_report_has_them(self, evaluated, tmp_path, capsys):
        """25 environments play four episodes each, of 1, 2, 4 and 1 steps; the third has no `last`."""
        flags = ("--workdir", str(evaluated), "--json", str(tmp_path / "report.json"), "--policy", "greedy")
        assert evaluate.main(["evaluate.py", *flags]) == 0
        result = json.loads((tmp_path / "report.json").read_text())["policies"]["greedy"]
        shown = {name: (found["mean"], found["episodes"]) for name, found in result["info"].items()}
        last = [numbers["last"] for numbers in result["infos"] if "last" in numbers]
        assert shown == {
            "success": (0.25, 100),
            "max:success": (0.5, 100),
            "sum:parts/a": (15 / 4, 100),
            "last": (pytest.approx(sum(last) / 75), 75),
        }
        low, high = result["info"]["success"]["interval"]
        assert 0.16 < low < 0.25 < high < 0.34
        assert [numbers["success"] for numbers in result["infos"][:4]] == [0.0, 1.0, 0.0, 0.0]
        printed = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["|", "success,", "mean", "|", "0.25", "|"] in printed

    def test_tensorboard_and_plots_have_them(self, evaluated, tmp_path):
        events = b"".join(path.read_bytes() for path in (evaluated / "tensorboard").iterdir())
        assert b"episode/info/max:success" in events
        assert b"evaluate/info/max:success" in events
        for name in ("episode/info/max:success", "evaluate/info/last"):
            curve = read_curve(str(evaluated), "env_steps", name)
            assert len(curve.y) == (10 if name.startswith("episode") else 1)
        out = tmp_path / "curve.png"
        assert plot.main(["plot.py", str(evaluated), "--out", str(out), "--y", "episode/info/max:success"]) == 0


class TestTerminal:
    PROGRESS = Progress(total=10**6, elapsed_s=1.0, left_s=None)
    NUMBERS = {f"{PREFIX}success": 0.25, f"{PREFIX}max:success": 0.5}  # noqa: RUF012

    def test_the_panel_shows_them_in_one_line(self):
        console = Console(file=io.StringIO(), width=80)
        many = {f"{PREFIX}number_{index:02}": index for index in range(50)}
        for row in (ROW, ROW | self.NUMBERS, ROW | many):
            console.print(make_panel("title", "folder", row, self.PROGRESS, None, 78))
        text = console.file.getvalue()
        assert "info       success 0.25  max:success 0.50" in text
        assert [line.count("number_") > 3 for line in text.splitlines() if "number_" in line] == [True]
        assert text.count("info ") == 2

    def test_a_log_file_shows_the_first(self):
        assert "  return 1.23  success 0.25  max:success 0.50  lag 1  " in plain_line(ROW | self.NUMBERS, self.PROGRESS)
        many = {f"{PREFIX}number_{index:02}": index for index in range(50)}
        assert plain_line(ROW | many, self.PROGRESS).count("number_") == 4


def test_a_key_that_names_no_number_is_a_mistake_of_one_line(tmp_path):
    ended = launch(
        *("--config", ROOT / "configs/impala_catch.py", "--smoke", "--config.env.source=gymnasium"),
        *("--config.env.id=tests.envs.informed:Informed", "--config.env.workers=1"),
        "--config.log.info_keys=(success, max:vector)",
        cwd=tmp_path,
    )
    (line,) = [line for line in ended.stderr.splitlines() if "rror" in line]
    assert line.startswith("podrl: error: log.info_keys: 'vector' is float64[3] in the environment's info; expected")
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 2


def test_the_keys_are_texts():
    config = make_config()
    with pytest.raises(ConfigError, match=r"log\.info_keys\[1\]="):
        dataclasses.replace(config.log, info_keys=("a", ""))
