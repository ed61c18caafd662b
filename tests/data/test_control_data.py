"""`tools/make_control_data.py`: the checkpoints it chooses, and the sets of a real run."""

import json

import pytest

from podrl import control_data, train
from podrl.commands import evaluate, make_control_data
from podrl.config.config import ConfigError
from podrl.data.data_set import open_data
from podrl.evaluation.reference import Reference, read_reference, write_reference
from tests import short_runs
from tests.data.episodes import content_of
from tests.processes import ROOT, launch


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({1: 0.0, 2: 40.0, 3: 100.0, 4: 90.0}, (2, 3)),
        ({1: 20.0, 2: 47.0, 3: 100.0}, (2, 3)),  # A third of the way from 10 is 40.
        ({1: 20.0, 2: 61.0, 3: 100.0}, (1, 3)),
        ({1: 100.0, 2: 30.0, 3: 100.0}, (2, 3)),  # The later one of two equal ones.
    ],
)
def test_medium_is_closest_to_a_third_of_the_way_to_the_best(scores, chosen):
    assert control_data.choose(scores, random=10.0) == chosen


def test_checkpoints_that_do_not_differ_are_one_line():
    with pytest.raises(ConfigError, match=r"best checkpoint returns 5\.00, and random play 10\.00\. Train longer"):
        control_data.choose({1: 1.0, 2: 5.0}, random=10.0)
    with pytest.raises(ConfigError, match=r"No checkpoint is closer .* than the expert, of update 2\. Keep"):
        control_data.choose({1: -300.0, 2: 40.0}, random=10.0)


def test_scores_lie_between_random_and_expert(tmp_path):
    reference = Reference(env_id="Hopper-v5", random=20.0, expert=3020.0)
    write_reference(tmp_path / "reference.json", reference, {"from": "a command"})
    assert read_reference(tmp_path / "reference.json", "Hopper-v5") == reference
    assert json.loads((tmp_path / "reference.json").read_text())["from"] == "a command"
    assert [reference.normalise(mean) for mean in (20.0, 3020.0, 770.0, -40.0)] == [0.0, 1.0, 0.25, -0.02]
    with pytest.raises(ConfigError, match=r"is of Hopper-v5; the run plays Ant-v5"):
        read_reference(tmp_path / "reference.json", "Ant-v5")
    for text in ("{", "[]", '{"env_id": "a", "random": 1}', '{"env_id": "a", "random": 1, "expert": NaN}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ConfigError, match="is no reference: expected JSON with env_id, random and expert"):
            read_reference(tmp_path / "bad.json", "a")
    (tmp_path / "bad.json").write_text('{"env_id": "a", "random": 1, "expert": 1}')
    with pytest.raises(ConfigError, match="random and expert have the same return, 1"):
        read_reference(tmp_path / "bad.json", "a")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_reference(tmp_path / "missing.json", "a")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """SAC on Gymnax's pendulum, which learns to stand in 100 updates: a checkpoint after every twentieth."""
    pytest.importorskip("gymnax")
    folder = tmp_path_factory.mktemp("run")
    arguments = ("--config", ROOT / "configs/sac_pendulum.py", "--config.total_env_steps=6400")
    arguments = (*arguments, "--config.checkpoint.every_updates=20", "--config.checkpoint.keep=9")
    result = launch(*arguments, "--config.log.tensorboard=False", "--workdir", folder / "pendulum", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "pendulum"


def make(run, out, *arguments):
    return make_control_data.main(["make_control_data.py", "--workdir", str(run), "--out", str(out), *arguments])


@pytest.mark.long
def test_one_command_makes_all_sets_and_the_references_of_scores(run, tmp_path, capsys):
    arguments = ("--steps", "4000", "--envs", "4", "--episodes", "4")
    assert make(run, tmp_path / "a", *arguments) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in table[1:]] == ["random", "medium", "expert", "mixed", "replay"]
    sets = {name: open_data(tmp_path / "a" / name) for name in ("random", "medium", "expert", "mixed", "replay")}
    returns = {name: data.facts.episode_return[data.facts.is_whole].mean() for name, data in sets.items()}
    assert max(returns["random"], returns["medium"]) < returns["expert"]
    assert [sets[name].num_steps for name in ("random", "medium", "expert")] == [4000] * 3
    assert sets["replay"].num_steps > 5000
    steps = [int(sets["mixed"].facts.length[sets["mixed"].facts.recording == part].sum()) for part in range(3)]
    assert steps == [2400, 2400, 800]  # Each of 4 environments ends its last episode of 200 steps.
    seeds = {name: set(sets[name].facts.seed.tolist()) for name in ("random", "medium", "expert", "mixed")}
    assert len(set.union(*seeds.values())) == sum(map(len, seeds.values()))
    reference = read_reference(tmp_path / "a/reference.json", "Pendulum-v1")
    assert reference.random == returns["random"]
    assert reference.expert > returns["medium"]
    first = content_of(tmp_path / "a")
    assert make(run, tmp_path / "a", *arguments) == 0
    assert content_of(tmp_path / "a") == first
    path = tmp_path / "a/reference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "checkpoints": [20, 40]}))
    assert make(run, tmp_path / "a", *arguments) == 2
    assert "has medium and expert sets of checkpoints [20, 40]; these are now" in capsys.readouterr().err
    flags = ("--workdir", str(run), "--episodes", "16", "--reference", str(tmp_path / "a/reference.json"))
    assert evaluate.main(["evaluate.py", *flags, "--json", str(tmp_path / "scores.json")]) == 0
    assert "normalised" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())["policies"]["greedy"]
    assert scores["normalised"]["mean"] == reference.normalise(scores["return"]["mean"])


def test_a_run_with_one_checkpoint_is_one_line(tmp_path, capsys):
    one = {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
    config = short_runs.make_config(total_env_steps=64, log__tensorboard=False, **one)
    train.train(config, workdir=str(tmp_path / "run"))
    assert make(tmp_path / "run", tmp_path / "out") == 2
    assert "has 1 checkpoint(s); `medium` and `expert` are two of them" in capsys.readouterr().err
