"""Trials of sweeps: asking, failing, refusing, and reports of several folders. A program that only writes rows runs."""

from concurrent.futures import ThreadPoolExecutor
import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("optuna") is None:
    pytest.skip("wants optuna: pip install -e '.[sweep]'", allow_module_level=True)
import optuna

from podrl.commands import sweep as command
from podrl.config.commandline import load_config
from podrl.studies import sweep as conducting
from podrl.studies.sweep_space import load_space
from podrl.studies.sweep_study import Sweep
from podrl.studies.sweep_study import open_study as make_study
from tests.processes import ROOT

SPACE = """import optuna

def sample(trial):
    {before}
    return {{"agent.entropy_cost": trial.suggest_float("cost", 0.0, 1.0)}}

def make_sampler():
    return optuna.samplers.{sampler}
"""
RUN = """import json, pathlib, sys
sys.path.insert(0, {root!r})
from podrl.config.config_files import find_config
from podrl.mistakes import ConfigError
flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
try:
    find_config(flags["config"])
except ConfigError as error:
    sys.exit(f"podrl: error: {{error}}")
row = {{"learner_steps": 1, "episode/return": 2.0, "episode/length": None}}
pathlib.Path(flags["workdir"], "metrics.jsonl").write_text(json.dumps(row) + "\\n")
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.py").write_text(RUN.format(root=str(ROOT)))
    monkeypatch.setattr(conducting, "start_arguments", lambda name: (str(tmp_path / "run.py"),))


def write_space(before="pass", sampler="RandomSampler()"):
    Path("space.py").write_text(SPACE.format(before=before, sampler=sampler))


def sweep(*more, workdir="sweep", config="impala_catch"):
    return command.main(["sweep", f"--config={config}", f"--workdir={workdir}", "--space=space.py", *more])


def open_study(workdir="sweep"):
    return optuna.load_study(study_name=workdir, storage=f"sqlite:///{workdir}/study.db")


def states():
    return [each.state.name for each in open_study().trials]


def test_a_config_of_podrls_own_is_swept_by_its_name_with_its_own_space():
    assert command.main(["sweep", "--config=impala_catch", "--workdir=sweep", "--trials=1"]) == 0
    assert states() == ["COMPLETE"]


def test_exit_code_1_if_no_trial_is_complete_or_pruned():
    write_space()
    Path("run.py").write_text("raise SystemExit('podrl: error: no')")
    assert sweep("--trials=2") == 1
    assert states() == ["FAIL", "FAIL"]


def test_a_combination_that_sample_refuses_counts_and_the_sweep_continues():
    write_space("if trial.number in (0, 2): raise optuna.TrialPruned()")
    assert sweep("--trials=4") == 0
    assert states() == ["PRUNED", "COMPLETE", "PRUNED", "COMPLETE"]


def test_a_space_that_refuses_everything_ends():
    write_space("raise optuna.TrialPruned()")
    assert sweep("--trials=3") == 1
    assert states() == ["PRUNED"] * 3


def test_a_late_error_in_sample_ends_the_sweep_in_one_line_and_the_mended_file_continues(capsys):
    write_space("1 / (trial.study.study_name != 'sweep')")  # The check passes, in a study of its own.
    assert sweep("--trials=1") == 2
    assert "sweep: error: space.py failed: ZeroDivisionError" in capsys.readouterr().err
    write_space()
    assert sweep("--trials=1") == 0
    assert states() == ["FAIL", "COMPLETE"]


def leave(*attributes):
    """Leaves a trial as a conductor that was killed while it asked does."""
    write_space()
    assert sweep("--report_only") == 0
    trial = open_study().ask()
    lock = Path(f"sweep/trials/{trial.number:04d}/.conductor")
    lock.parent.mkdir(parents=True)
    lock.touch()
    facts = {"folder": str(Path("sweep").absolute()), "values": {"agent.entropy_cost": "0.5"}}
    for name in attributes:
        trial.set_user_attr(name, facts[name])


@pytest.mark.parametrize(
    ("attributes", "became"), [((), "FAIL"), (("folder",), "FAIL"), (("values",), "COMPLETE")], ids=str
)
def test_a_trial_whose_conductor_was_killed_while_it_asked_is_failed_or_resumed(attributes, became):
    leave(*attributes)
    assert sweep("--trials=1") == 0
    assert states() == (["COMPLETE"] if became == "COMPLETE" else ["FAIL", "COMPLETE"])


def test_the_report_has_trials_of_other_folders_and_their_best_configs():
    write_space()
    shared = ("--storage=study.journal", "--study=both")
    assert sweep("--trials=1", *shared, workdir="one") == 0
    assert sweep("--trials=2", *shared, workdir="two", config=ROOT / "configs/impala_catch.py") == 0
    assert not Path("two/trials/0000").exists()
    costs = {line.split(",")[3] for line in Path("two/trials.csv").read_text().splitlines()[1:]}
    found = {str(load_config(f"two/best-{place}.py").agent.entropy_cost) for place in (1, 2)}
    assert found == costs
    assert len(costs) == 2


def test_a_trial_whose_config_cannot_be_read_is_left_out_of_the_best():
    write_space()
    assert sweep("--trials=1") == 0
    Path("sweep/trials/0000/config.json").write_text("{")
    assert sweep("--report_only") == 0
    assert not Path("sweep/best-1.py").exists()


def test_a_users_config_is_the_same_sweep_in_another_folder_until_its_text_changes(capsys):
    write_space()
    text = "from configs.impala_catch import get_config\n"
    for folder in ("here", "there"):
        Path(folder).mkdir()
        Path(folder, "mine.py").write_text(text)
        assert sweep("--report_only", config=f"{folder}/mine.py") == 0
    Path("there/mine.py").write_text(f"{text}# Changed.\n")
    assert sweep("--report_only", config="there/mine.py") == 2
    assert "config was mine.py with SHA-256" in capsys.readouterr().err


def test_a_larger_grid_continues_where_a_smaller_one_has_ended():
    write_space(sampler='GridSampler({"cost": [0.1, 0.2]})')
    for _ in range(2):
        assert sweep("--trials=9") == 0
        assert states() == ["COMPLETE"] * 2
    write_space(sampler='GridSampler({"cost": [0.1, 0.2, 0.3, 0.4]})')
    assert sweep("--trials=9") == 0
    assert {each.params["cost"] for each in open_study().trials} == {0.1, 0.2, 0.3, 0.4}


def test_a_misspelt_objective_ends_the_sweep_after_its_first_trial(capsys):
    write_space()
    assert sweep("--trials=3", "--objective=episode/retrun") == 2
    assert "--objective=episode/retrun is no metric of these runs; did you mean 'episode/return'?" in (
        capsys.readouterr().err
    )
    assert states() == ["FAIL"]


def test_an_objective_that_has_no_value_yet_fails_its_trials_only():
    write_space()
    assert sweep("--trials=2", "--objective=episode/length") == 1
    assert states() == ["FAIL", "FAIL"]


def test_the_help_names_configs_as_a_users_of_a_wheel_have_them(capsys):
    with pytest.raises(SystemExit):
        command.main(["sweep", "--help"])
    said = capsys.readouterr().out
    assert "--config impala_catch" in said
    assert "configs/" not in said


def test_conductors_that_begin_at_once_open_one_study(tmp_path):
    write_space()
    space = load_space("space.py", "impala_catch", [])
    asked = {"objective": "episode/return", "direction": "maximize", "prune_by": "learner_steps"}
    same = Sweep(config="impala_catch", overrides={}, last_rows=1, report_every=1, **asked)
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: make_study(same, space, tmp_path, None, "all"), range(4)))
    assert [study.study_name for study in opened] == ["all"] * 4
    assert len(optuna.get_all_study_names(f"sqlite:///{tmp_path}/study.db")) == 1
