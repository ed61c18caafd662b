"""Which points there are."""

import json

import pytest

from podrl.config.config import ConfigError
from podrl.studies.feasibility import examine
from podrl.studies.folder import Folder
from podrl.studies.grid import Axis, Machines, Trial, combinations, make_axis, with_new_keys
from podrl.studies.summary import collect
from podrl.studies.table import make_run_table
from tests.studies.studies import define


def test_an_axis_has_values_of_a_key():
    assert make_axis("network.width=1,2") == Axis(keys=("network.width",), values=(("1",), ("2",)))


def test_commas_within_brackets_are_a_values_own():
    axis = make_axis("network.hidden_sizes=(64,64),(256,)")
    assert axis.values == (("(64,64)",), ("(256,)",))


def test_keys_joined_by_colons_change_together():
    axis = make_axis("actors.num_envs:actors.unroll_length=16:40,32:20")
    assert list(combinations([axis])) == [
        {"actors.num_envs": "16", "actors.unroll_length": "40"},
        {"actors.num_envs": "32", "actors.unroll_length": "20"},
    ]


def test_axes_make_a_product():
    axes = [make_axis("actors.num_envs=16,32"), make_axis("actors.unroll_length=10,20,40")]
    found = list(combinations(axes))
    assert len(found) == 6
    assert len({tuple(each.items()) for each in found}) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("actors.num_envs", "must be KEY=VALUE,VALUE"),
        ("actors.num_envs=", "must be KEY=VALUE,VALUE"),
        ("a:b=1:2,3", "'3' has 1 value(s) for 2 keys"),
        ("a=1,2,1", "names a value twice"),
    ],
)
def test_mistakes_in_an_axis_are_named(text, message):
    with pytest.raises(ConfigError) as error:
        make_axis(text)
    assert message in str(error.value)


def test_a_key_is_on_one_axis():
    with pytest.raises(ConfigError, match=r"actors\.num_envs is on two axes"):
        list(combinations([make_axis("actors.num_envs=16,32"), make_axis("actors.num_envs=64")]))


def test_weak_scaling_multiplies_environments_and_strong_keeps_them():
    feasible, infeasible = examine(define(axes=(make_axis("actors.num_envs=16,32"),)), "cpu")
    assert infeasible == []
    found = {
        (each.scaling, each.settings["actors.num_envs"], each.machines.processes): (
            each.num_envs,
            each.learner_devices,
            each.config.env_steps_per_update,
        )
        for each in feasible
    }
    assert found == {
        **{("weak", str(base), p): (base * p, p, 20 * base * p) for base in (16, 32) for p in (1, 2, 4)},
        **{("strong", str(base), p): (base, p, 20 * base) for base in (16, 32) for p in (1, 2, 4)},
    }


def test_weak_scaling_counts_the_learners_devices():
    """Of four devices two act and two learn: with one process of 2 and one of 4, learners double."""
    machines = tuple(Machines(processes=1, devices_per_process=d) for d in (2, 4))
    feasible, _ = examine(define(machines=machines, scaling=("weak",)), "cpu")
    assert [(each.actor_devices, each.learner_devices, each.num_envs) for each in feasible] == [
        (1, 1, 32),
        (2, 2, 64),
    ]


def test_the_base_value_belongs_to_the_smallest_though_it_comes_last():
    machines = tuple(Machines(processes=p, devices_per_process=1) for p in (4, 2))
    feasible, _ = examine(define(machines=machines, scaling=("weak",)), "cpu")
    assert [each.num_envs for each in feasible] == [64, 32]


def test_points_that_do_not_divide_are_found_without_being_run():
    feasible, infeasible = examine(define(overrides={"actors.num_envs": "4"}, scaling=("strong",)), "cpu")
    assert [each.name for each in feasible] == ["strong-1x1", "strong-2x1"]
    (lost,) = infeasible
    assert lost.name == "strong-4x1"
    assert "actors.num_envs=4 does not divide over 8 pools" in lost.reason


def test_too_few_updates_are_a_mistake():
    _, infeasible = examine(define(overrides={"total_env_steps": "6400"}, scaling=("strong",)), "cpu")
    assert "fewer than two rows of metrics after the warm-up of 3 updates" in infeasible[0].reason
    lag = {"total_env_steps": "64_000", "determinism": "free", "actors.max_lag": "150"}
    _, infeasible = examine(define(overrides=lag, scaling=("strong",)), "cpu")
    assert "fewer than two rows of metrics after the warm-up of 151 updates" in infeasible[0].reason


def test_several_seeds_in_one_program_are_no_run_of_a_study():
    overrides = {"topology.seeds": "2", "topology.placement": "anakin"}
    _, infeasible = examine(define(overrides=overrides, scaling=("strong",)), "cpu")
    assert infeasible[0].reason.endswith("each run of a study is of one seed. Use --seeds for several.")


def test_a_wrong_key_is_not_one_points_mistake():
    with pytest.raises(ConfigError, match=r"Unknown config key 'actors\.num_env'; did you mean 'actors\.num_envs'"):
        examine(define(axes=(make_axis("actors.num_env=16,32"),)), "cpu")
    with pytest.raises(ConfigError, match=r"Unknown config key 'agent\.minibatch'; did you mean 'agent\.minibatches'"):
        examine(define(axes=(make_axis("agent.minibatch=1,2"),)), "cpu")


@pytest.mark.parametrize("agent", ["'impala'", "None"])
def test_a_study_of_a_config_without_an_agents_section_is_one_line(agent, tmp_path):
    (tmp_path / "own.py").write_text(
        "from configs import common\ndef get_config():\n    config = common.make_config('own', 'Catch-v0', 1000)\n"
        f"    with config.ignore_type():\n        config.agent = {agent}\n    return config\n"
    )
    with pytest.raises(ConfigError, match=r"agent\.name=None must be the name of an agent"):
        examine(define(config=str(tmp_path / "own.py")), "cpu")


def test_a_study_that_was_begun_with_earlier_names_of_keys_is_continued(tmp_path):
    axis = make_axis("agent.optimizer.learning_rate=0.1,0.2")
    definition = define(axes=(axis,), overrides={"agent.optimizer.epsilon": "1e-3", "agent.optimizer.name": "adam"})
    feasible, _ = examine(definition, "cpu")
    folder = Folder(tmp_path)
    folder.begin(definition, feasible, [], [], accept_changes=False)
    manifest = json.loads((tmp_path / "study.json").read_text())
    manifest["definition"]["overrides"] = {"agent.epsilon": "1e-3", "agent.optimizer": "adam"}
    manifest["definition"]["axes"][0]["keys"] = ["agent.learning_rate"]
    (tmp_path / "study.json").write_text(json.dumps(manifest))
    trials = [Trial(point=each, seed=1) for each in feasible[:2]]
    run = tmp_path / "points" / trials[0].point.name.replace("agent.optimizer.", "agent.") / "seed-1"
    run.mkdir(parents=True)
    (run / "result.json").write_text("{}")

    folder.begin(definition, feasible, [], [], accept_changes=False)
    assert len(folder.read_manifest()["starts"]) == 2
    assert folder.read_definition() == definition
    assert [folder.status(trial).word for trial in trials] == ["complete", "not begun"]
    (run / "result.json").rename(run / "failed.json")
    rows = make_run_table(collect(folder, feasible[:2], [1]), [])
    assert [row["folder"] for row in rows] == [str(run.relative_to(tmp_path)), f"points/{feasible[1].name}/seed-1"]


def test_a_study_that_was_begun_with_synchronous_acting_is_one_of_the_lag():
    axis = {"keys": ["network.width", "actors.synchronous"], "values": [["1", "True"], ["2", "false"]]}
    found = with_new_keys({"overrides": {"actors.synchronous": "true"}, "axes": [axis]})
    assert found["overrides"] == {"actors.lag": "0"}
    assert found["axes"] == [{"keys": ["network.width", "actors.lag"], "values": [["1", "0"], ["2", "1"]]}]
    feasible, _ = examine(define(axes=(make_axis("actors.lag=0,4"),), scaling=("strong",)), "cpu")
    before = ["strong-1x1-actors.synchronous=True", "strong-1x1-actors.synchronous=true"]
    assert feasible[0].names == ["strong-1x1-actors.lag=0", *before]
    assert {tuple(each.names) for each in feasible if each.settings["actors.lag"] == "4"} == {
        (f"strong-{size}-actors.lag=4",) for size in ("1x1", "2x1", "4x1")
    }


def test_a_study_that_was_begun_between_two_changes_of_names_is_continued(tmp_path):
    """Its folders have a name of today and one of before, in each mixture that an earlier podrl had."""
    axes = tuple(map(make_axis, ("agent.optimizer.learning_rate=0.1,0.2", "actors.lag=0,1")))
    feasible, _ = examine(define(axes=axes, scaling=("strong",)), "cpu")
    trials = [Trial(point=each, seed=1) for each in feasible[:2]]
    renamed = [("actors.lag=0", "actors.synchronous=True"), ("agent.optimizer.", "agent.")]
    for trial, (new, old) in zip(trials, renamed, strict=True):
        run = tmp_path / "points" / trial.point.name.replace(new, old) / "seed-1"
        run.mkdir(parents=True)
        (run / "result.json").write_text("{}")
    assert [Folder(tmp_path).status(trial).word for trial in trials] == ["complete", "complete"]


def write_earlier_study(path, definition, overrides, axes):
    """Writes the manifest as an earlier podrl did; `definition` is what it is today."""
    feasible, _ = examine(definition, "cpu")
    Folder(path).begin(definition, feasible, [], [], accept_changes=False)
    manifest = json.loads((path / "study.json").read_text())
    manifest["definition"] |= {"overrides": overrides, "axes": axes}
    (path / "study.json").write_text(json.dumps(manifest))
    return feasible


def test_a_free_study_that_was_begun_with_synchronous_acting_bounds_its_lag_by_0(tmp_path):
    now = {"determinism": "free", "actors.max_lag": "0"}
    before = {"actors.synchronous": "True", "determinism": "free", "actors.max_lag": "4"}  # Which was not heeded.
    feasible = write_earlier_study(tmp_path, define(overrides=now), before, [])
    assert Folder(tmp_path).read_definition() == define(overrides=now)
    Folder(tmp_path).begin(define(overrides=now), feasible, [], [], accept_changes=False)


def test_so_does_one_with_an_axis_of_it_unless_the_axis_has_what_is_no_bound(tmp_path):
    definition = define(overrides={"determinism": "free"}, axes=(make_axis("actors.max_lag=0"),), scaling=("strong",))
    axis = {"keys": ["actors.synchronous"], "values": [["True"]]}
    feasible = write_earlier_study(tmp_path, definition, definition.overrides, [axis])
    assert Folder(tmp_path).read_definition() == definition
    assert "strong-1x1-actors.synchronous=True" in feasible[0].names
    axis["values"].append(["False"])
    write_earlier_study(tmp_path / "mixed", definition, definition.overrides, [axis])
    with pytest.raises(ConfigError, match=r"^--axis actors\.synchronous of .* Begin another --workdir, with"):
        Folder(tmp_path / "mixed").read_definition()


def test_names_are_different_and_fit_for_folders():
    axes = (make_axis("network.hidden_sizes=(64,64),(64,)"), make_axis("env.id=Catch-v0"))
    feasible, _ = examine(define(axes=axes), "cpu")
    names = [each.name for each in feasible]
    assert len(set(names)) == len(names) == 12
    assert not any("/" in name or "(" in name for name in names)


def test_long_names_are_cut_and_stay_different():
    values = [f"({'64,' * 60}{last})" for last in (1, 2)]
    feasible, _ = examine(define(axes=(make_axis(f"network.hidden_sizes={','.join(values)}"),)), "cpu")
    names = {each.name for each in feasible}
    assert len(names) == 12
    assert max(map(len, names)) <= 150
