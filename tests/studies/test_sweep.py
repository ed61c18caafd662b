"""Sweeps: what is refused before they start, and real ones of small runs that are killed, pruned and resumed."""

import csv
import importlib.util
import json
from pathlib import Path
import signal

import pytest

if importlib.util.find_spec("optuna") is None:
    pytest.skip("wants optuna: pip install -e '.[sweep]'", allow_module_level=True)
import optuna

from podrl.commands import sweep as command
from podrl.studies.sweep import Watch
from podrl.studies.sweep_figures import FoundTrial, draw_history, draw_importance
from podrl.studies.sweep_report import in_order
from podrl.studies.sweep_study import Sweep, trial_folder
from tests.processes import LIMIT_S, ROOT, checkpoints, finish, launch, num_rows, read_rows, running, wait_for

PROGRAM = ROOT / "tools/sweep.py"
CATCH = ROOT / "configs/impala_catch.py"
SMALL = (
    *(f"--config={CATCH}", "--workdir=sweep", "--space=space.py", "--config.total_env_steps=64_000"),
    *("--config.actors.num_envs=16", "--config.network.hidden_sizes=(16,)", "--config.log.every_updates=1"),
    *("--config.checkpoint.every_updates=10",),
)


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_space(
    values='{"agent.entropy_cost": trial.suggest_float("cost", 0.01, 0.1)}', pruner="optuna.pruners.NopPruner()"
):
    Path("space.py").write_text(
        f"import optuna\n\ndef sample(trial):\n    return {values}\n\ndef make_pruner():\n    return {pruner}\n"
    )


COST = 'trial.suggest_float("cost", 0.01, 0.1)'


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (f'{{"agent.entropy_cots": {COST}}}', "space.py: Unknown config key 'agent.entropy_cots'; did you mean"),
        (f'{{"network.hiden_sizes": {COST}}}', "did you mean 'network.hidden_sizes'?"),
        ('{"actors.unroll_length": trial.suggest_float("t", 1.2, 1.8)}', "space.py: actors.unroll_length="),
        (f'{{"agent.optimizer.learning_rate": -{COST}}}', "space.py: agent.optimizer.learning_rate="),
        ("[1, 2]", "sample(trial) in space.py must return values by config keys"),
        ("{}", "sample(trial) in space.py must return values by config keys"),
        ("1 / 0", "space.py failed: ZeroDivisionError"),
    ],
)
def test_a_bad_space_is_refused_in_one_line_before_anything_starts(values, said, capsys):
    write_space(values)
    assert command.main(["sweep", *SMALL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sweep: error: ")
    assert said in line
    assert not Path("sweep").exists()


def test_a_space_that_is_not_there_and_another_sweep_in_the_folder_are_refused(capsys):
    assert command.main(["sweep", *SMALL]) == 2
    assert "--space=space.py does not exist." in capsys.readouterr().err
    write_space()
    assert command.main(["sweep", *SMALL, "--report_only"]) == 0
    capsys.readouterr()
    assert command.main(["sweep", *SMALL, "--report_only", "--direction=minimize"]) == 2
    assert "direction was maximize, is minimize" in capsys.readouterr().err


def make_sweep(**changes):
    values = {"config": str(CATCH), "overrides": {}, "objective": "episode/return", "direction": "maximize"}
    return Sweep(**{**values, "last_rows": 2, "prune_by": "learner_steps", "report_every": 10, **changes})


def append(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.filterwarnings("error")  # Optuna warns of a step that it has already.
def test_the_pruner_hears_of_the_same_steps_of_each_trial_once(tmp_path):
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=-5))
    trial = study.ask()
    watch = Watch(trial, make_sweep(), tmp_path)
    path = trial_folder(tmp_path, 0) / "metrics.jsonl"
    assert not watch()
    append(path, [{"learner_steps": step, "episode/return": float(step)} for step in (1, 7, 14, 21)])
    assert not watch()
    assert study.trials[0].intermediate_values == {10: 14.0, 20: 21.0}
    path.write_text("")  # The run resumes from an earlier update, and makes rows again.
    append(path, [{"learner_steps": step, "episode/return": 2.0 * step} for step in (7, 14, 21, 35)])
    append(path, [{"learner_steps": 40}, {"learner_steps": 41, "episode/return": None}])
    assert not watch()
    assert study.trials[0].intermediate_values == {10: 14.0, 20: 21.0, 30: 70.0}
    append(path, [{"learner_steps": 50, "episode/return": -9.0}])
    assert watch()
    assert watch()


def test_best_trials_come_first_and_failed_ones_last():
    def found(number, state, value):
        return FoundTrial(number=number, state=state, value=value, values={}, params={}, curve={}, reason="")

    trials = [
        found(0, "pruned", 5.0),
        found(1, "complete", 1.0),
        found(2, "fail", None),
        found(3, "complete", 2.0),
        found(4, "running", None),
    ]
    assert [each.number for each in in_order(trials, "maximize")] == [3, 1, 0, 2, 4]
    assert [each.number for each in in_order(trials, "minimize")] == [1, 3, 0, 2, 4]


def test_pictures_are_drawn_of_any_mixture_of_trials():
    def found(number, state, value, **params):
        return FoundTrial(number=number, state=state, value=value, values={}, params=params, curve={10: 0.1}, reason="")

    trials = [
        found(2, "complete", 1.0, rate=1e-2, size=20, kind="a"),
        found(0, "complete", 0.5, rate=1e-4, size=5, kind="b"),
        found(1, "pruned", 0.1, rate=1e-3, size=10, kind="a"),
        found(3, "fail", None, rate=1e-3, size=10, kind="a"),
    ]
    for drawn in (
        draw_history(trials, make_sweep()),
        draw_importance(trials, make_sweep(), {"rate": 0.7, "kind": 0.3}),
    ):
        assert drawn.startswith(b"\x89PNG")


def states():
    study = optuna.load_study(study_name="sweep", storage="sqlite:///sweep/study.db")
    return [each.state.name for each in study.trials]


@pytest.mark.slow
def test_a_sweep_that_is_killed_resumes_its_trial_and_its_best_config_trains(tmp_path):
    write_space()
    first = tmp_path / "sweep/trials/0000"
    with running(*SMALL, "--trials=2", cwd=tmp_path, program=PROGRAM) as process:
        wait_for(lambda: num_rows(first) >= 25 and checkpoints(first), process)
        process.kill()
        process.communicate(timeout=60)  # The trial's process, which shares its pipes, ends with it.
    assert states() == ["RUNNING"]
    with running(*SMALL, "--trials=2", cwd=tmp_path, program=PROGRAM) as process:
        said = finish(process)
    assert process.returncode == 0, said
    assert "Resumes the run in this folder after update" in (first / "job.log").read_text()
    assert states() == ["COMPLETE", "COMPLETE"]
    rows = list(csv.DictReader(Path("sweep/trials.csv").read_text().splitlines()))
    assert sorted(row["trial"] for row in rows) == ["0", "1"]
    last = [row["episode/return"] for row in read_rows(first) if row.get("episode/return") is not None][-5:]
    value = next(float(row["episode/return"]) for row in rows if row["trial"] == "0")
    assert value == pytest.approx(sum(last) / 5)
    for picture in ("history.png", "importance.png"):
        assert Path("sweep", picture).stat().st_size > 1000
    result = launch("--config=sweep/best-1.py", "--workdir=best", "--smoke", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    best, trained = (
        json.loads(Path(name, "config.json").read_text())
        for name in (f"sweep/trials/{int(rows[0]['trial']):04d}", "best")
    )
    assert best["agent"] == trained["agent"]


@pytest.mark.slow
def test_a_pruned_trial_is_stopped_and_keeps_its_rows_and_conductors_share_the_trials(tmp_path):
    """Every trial is pruned at its first report; two conductors share three trials."""
    write_space(pruner="optuna.pruners.ThresholdPruner(upper=-10.0)")
    more = (*SMALL, "--trials=3", "--report_every=20", "--config.total_env_steps=64_000_000")
    with (
        running(*more, cwd=tmp_path, program=PROGRAM) as one,
        running(*more, cwd=tmp_path, program=PROGRAM) as other,
    ):
        said = finish(one), finish(other)
    assert (one.returncode, other.returncode) == (0, 0), said
    assert states() == ["PRUNED"] * 3
    for number in range(3):
        folder = tmp_path / f"sweep/trials/{number:04d}"
        rows = read_rows(folder)
        assert 20 <= rows[-1]["learner_steps"] < 200_000
        assert [row["learner_steps"] for row in rows] == list(range(1, len(rows) + 1))
        assert checkpoints(folder)[-1] == rows[-1]["learner_steps"]  # It was told to stop, and saved.
    assert sum(text.count("pruned at") for text in said) == 3


@pytest.mark.slow
def test_ctrl_c_leaves_a_trial_to_be_resumed_and_one_that_cannot_run_fails(tmp_path):
    write_space('{"actors.num_envs": trial.suggest_categorical("n", [16, 15]), "agent.entropy_cost": 0.01}')
    Path("space.py").write_text(
        Path("space.py").read_text() + "\ndef make_sampler():\n    return optuna.samplers.BruteForceSampler(seed=1)\n"
    )
    with running(*SMALL, "--trials=2", cwd=tmp_path, program=PROGRAM) as process:
        wait_for(lambda: any(num_rows(path) >= 5 for path in tmp_path.glob("sweep/trials/*")), process)
        process.send_signal(signal.SIGINT)
        said = finish(process)
    assert process.returncode == 130, said
    assert "half-done; the same command resumes it" in said
    with running(*SMALL, "--trials=5", cwd=tmp_path, program=PROGRAM) as process:  # The grid has two.
        output, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert sorted(states()) == ["COMPLETE", "FAIL"]
    assert "failed: exit code 2: podrl: error: actors.num_envs=15 does not divide" in said
    assert "failed: exit code 2: podrl: error: actors.num_envs=15 does not divide" in output
