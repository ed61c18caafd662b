import dataclasses
import json
import subprocess
import sys

from etils import epath
import jax
from jax import numpy as jnp
import pytest

from podrl.commands import compare_runs as command
from podrl.mesh import make_topology
from podrl.ops.fingerprint import extend
from podrl.runs.comparison import BATCH, CHAIN, PARAMS, boundary_note, changes, compare_runs, conclusion
from podrl.runs.records import read_record
from podrl.runs.workdir import make_manifest, write_facts
from podrl.telemetry.writer import MetricsWriter
from tests import short_runs
from tests.processes import ROOT

pytestmark = pytest.mark.usefixtures("compiled_once")

VERSIONS = {"jax": "0.10.2", "numpy": "2.3.0"}


@pytest.fixture
def record_run(tmp_path):
    """Trains for real and leaves the folder that the command leaves."""

    def record(folder, config, **kwargs):
        _, rows = short_runs.run(config, **kwargs)
        manifest = make_manifest(config, make_topology(config.topology, jax.devices()[:1]), ())
        write_facts(epath.Path(tmp_path / folder), config, manifest)
        with MetricsWriter(tmp_path / folder, tensorboard=False) as writer:
            for row in rows:
                writer.write(row, row["env_steps"])
        return read_record(str(tmp_path / folder))

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    return record


@pytest.fixture
def write_run(tmp_path):
    """Writes a folder with rows whose fingerprints are as `batch` and `params` say: (update) -> number."""

    def write(
        folder, *, updates=20, every=1, batch=lambda u: u, params=lambda u: u, manifests=({},), config=None, tail=""
    ):
        path = tmp_path / folder
        path.mkdir()
        settings = {"name": "catch", "seed": 1, "env": {"id": "Catch-v0"}, "log": {"every_updates": every}}
        (path / "config.json").write_text(json.dumps(settings | (config or {})))
        for number, manifest_changes in enumerate(manifests, start=1):
            manifest = {"argv": [folder], "started": folder, "seed": 1, "commit": "c0ffee", "versions": VERSIONS}
            name = "manifest.json" if number == 1 else f"manifest-{number}.json"
            (path / name).write_text(json.dumps(manifest | {"devices": ["cpu:0"], "xla_flags": ""} | manifest_changes))
        lines, chain = [], "0" * 16
        for update in (u for u in range(1, updates + 1) if u % every == 0 or u in (1, updates)):
            links = [f"{value(update):016x}" for value in (params, batch)]
            shown = extend(chain, *links)
            chain = shown if update % every == 0 else chain
            row = {"learner_steps": update, "fingerprint": shown}
            lines.append(row | dict(zip(("fingerprint/params", "fingerprint/batch"), links, strict=True)))
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines) + tail)
        return str(path)

    return write


def compared(*folders):
    return compare_runs(*map(read_record, folders))


def changed_from(update, other=lambda u: u):
    return lambda u: other(u) + (1000 if u >= update else 0)


class TestRealRuns:
    def test_another_environment_shows_in_the_data_first(self, record_run):
        records = [
            record_run(folder, short_runs.scripted_config({"episode_lengths": lengths}))
            for folder, lengths in (("a", (3, 5)), ("b", (3, 6)))
        ]
        comparison = compare_runs(*records)
        assert [(setting.kind, setting.key) for setting in comparison.settings] == [
            ("config", "env.options.episode_lengths")
        ]
        assert (comparison.batch.until, comparison.batch.first) == (1, 2)
        assert conclusion(comparison) == "Data first: they came to differ in update 2. Look at environments and actors."

    def test_one_perturbed_parameter_shows_in_the_parameters_first(self, record_run):
        config = short_runs.make_config()
        agent, _ = short_runs.make_agent(config)

        def learn(state, batch):
            """One number differs, once."""
            new_state, metrics, priority = agent.learn(state, batch)
            leaves, tree = jax.tree.flatten(new_state.params)
            leaves[0] = leaves[0].at[0].add(jnp.where(state.step == 4, 0.5, 0.0))
            return dataclasses.replace(new_state, params=jax.tree.unflatten(tree, leaves)), metrics, priority

        a = record_run("a", config)
        b = record_run("b", config, agent=dataclasses.replace(agent, learn=learn))
        comparison = compare_runs(a, b)
        assert not comparison.settings
        assert (comparison.params.first, comparison.batch.first) == (5, 7)  # Update 6 learns from what 4 made.
        assert conclusion(comparison).startswith("Parameters first: they came to differ in update 5,")

    def test_other_boundaries_make_other_data(self, record_run):
        a, b = (
            record_run(folder, short_runs.make_config(checkpoint__every_updates=every))
            for folder, every in (("a", 4), ("b", 0))
        )
        comparison = compare_runs(a, b)
        assert (comparison.boundary, comparison.batch.until) == (4, 4)
        assert conclusion(comparison) == (
            "Data first: they came to differ in update 5. checkpoint.every_updates alone does that."
        )
        assert "after update 4 the runs differ for that alone" in boundary_note(comparison)
        assert boundary_note(compare_runs(a, a)) == ""

    def test_the_same_run_twice_is_equal(self, record_run):
        comparison = compare_runs(
            *(record_run(folder, short_runs.make_config(log__every_updates=4)) for folder in ("a", "b"))
        )
        assert comparison.updates == [1, 4, 8, 10]
        assert comparison.is_equal
        assert conclusion(comparison) == "Equal for all 10 updates in common."


class TestConclusion:
    def test_runs_of_other_lengths_are_compared_as_far_as_both_go(self, write_run):
        comparison = compared(write_run("a", updates=20), write_run("b", updates=12))
        assert conclusion(comparison) == "Equal for all 12 updates in common."

    def test_with_other_intervals_the_common_updates_count(self, write_run):
        comparison = compared(write_run("a", every=2), write_run("b", every=5))
        assert comparison.updates == [1, 10, 20]
        assert comparison.chain is None
        assert conclusion(comparison).startswith("Equal at all 3 updates with a row in both, up to update 20;")

    def test_names_the_interval_where_rows_are_rare(self, write_run):
        a = write_run("a", every=5)
        data = compared(a, write_run("b", every=5, batch=changed_from(7)))
        assert conclusion(data).startswith("Data first: they came to differ in updates 6 to 10.")
        params = compared(a, write_run("c", every=5, params=changed_from(7), batch=changed_from(12)))
        assert conclusion(params).startswith(
            "Parameters first: they came to differ in updates 6 to 10, where the batch"
        )

    def test_says_so_where_rows_are_too_rare_to_tell(self, write_run):
        both = compared(write_run("a", every=5), write_run("b", every=5, params=changed_from(7), batch=changed_from(7)))
        assert (both.batch.until, both.params.until) == (5, 5)
        assert "both came to differ in updates 6 to 10: the rows do not tell which first" in conclusion(both)

    def test_at_the_first_update_the_parameters_it_began_with_may_be_the_reason(self, write_run):
        comparison = compared(write_run("a"), write_run("b", params=changed_from(1), batch=changed_from(1)))
        assert conclusion(comparison) == (
            "Data first: they came to differ in update 1. Look at environments and actors, or at the parameters that "
            "the runs began with."
        )

    def test_chains_remember_what_the_rows_do_not_show(self, write_run):
        def once(update):
            return update + (1000 if update == 6 else 0)

        a, b = write_run("a"), write_run("b", params=once)
        assert compared(a, b).params.first == 6
        rows = epath.Path(b) / "metrics.jsonl"
        rows.write_text("".join(f"{line}\n" for line in rows.read_text().splitlines() if ": 6," not in line))
        comparison = compared(a, b)
        assert (comparison.params.first, comparison.batch.first) == (None, None)
        assert comparison.chain.first == 7
        assert not comparison.is_equal
        assert "Data and parameters agree in all rows, but not the chains, from update 7 on" in conclusion(comparison)


class TestSettings:
    def test_names_keys_with_both_values(self, write_run):
        a = write_run("a", config={"agent": {"discount": 0.99}})
        manifest = {"seed": 2, "versions": VERSIONS | {"jax": "0.11.0"}, "devices": ["cpu:0", "cpu:1"]}
        b = write_run("b", config={"agent": {"discount": 0.9, "lambda_": 1.0}, "seed": 2}, manifests=(manifest,))
        found = [(s.kind, s.key, s.a, s.b) for s in compared(a, b).settings]
        assert found == [
            ("config", "agent.discount", "0.99", "0.9"),
            ("config", "agent.lambda_", "not there", "1.0"),
            ("seed", "seed", "1", "2"),
            ("software", "versions.jax", "0.10.2", "0.11.0"),
            ("hardware", "devices", "cpu:0", "cpu:0, cpu:1"),
        ]

    def test_all_starts_of_a_resumed_run_count(self, write_run):
        same = write_run("a", manifests=({}, {}))
        changed = write_run("b", manifests=({}, {}, {"xla_flags": "--fast"}, {"xla_flags": "--fast"}))
        assert not compared(write_run("c"), same).settings
        (setting,) = compared(same, changed).settings
        assert (setting.key, setting.a, setting.b) == ("xla_flags", "", ", then --fast")


class TestTheCommand:
    def test_the_verdict_names_versions_that_differ(self, write_run, capsys):
        newer = {"versions": {"jax": "0.12.0.1", "numpy": "2.3.0", "envpool": "1.2.7"}, "python": "3.12.1"}
        runs = [
            write_run("a", manifests=({"python": "3.11.2"},)),
            write_run("b", params=changed_from(5), manifests=(newer,)),
        ]
        assert command.main(["compare_runs.py", *runs]) == 1
        verdict = capsys.readouterr().out.splitlines()[-1]
        assert verdict.startswith("Parameters first: ")
        said = "python 3.11.2 and 3.12.1; envpool not there and 1.2.7; jax 0.10.2 and 0.12.0.1"
        assert verdict.endswith(f" Versions differ, which alone may change bits: {said}.")
        same = write_run("c", params=changed_from(5))
        assert command.main(["compare_runs.py", write_run("d"), same]) == 1
        assert "Versions differ" not in capsys.readouterr().out

    def test_weights_that_runs_began_with_are_a_setting(self, write_run):
        began = {"init_from": {"run": "/runs/x", "update": 3}}
        comparison = compared(write_run("a"), write_run("b", manifests=(began,)))
        assert {(setting.kind, setting.key) for setting in comparison.settings} == {
            *(("start", "init_from.run"), ("start", "init_from.update"))
        }

    def test_exit_codes_are_those_of_diff(self, write_run, capsys):
        a, b = write_run("a"), write_run("b")
        assert command.main(["compare_runs.py", a, b]) == 0
        assert "Equal for all 20 updates in common." in capsys.readouterr().out
        other = write_run("c", batch=changed_from(7), config={"agent": {"discount": 0.9}})
        assert command.main(["compare_runs.py", a, other]) == 1
        out = capsys.readouterr().out
        assert "| config | agent.discount | not there | 0.9 |" in out
        assert "| data         | 6                  | 7" in out
        assert "Data first" in out

    def test_mistakes_are_one_line_and_exit_code_2(self, write_run, tmp_path, capsys):
        a = write_run("a")
        old = write_run("old", tail='{"learner_steps": 21, "fingerprint": "0a"}\n')
        late = json.dumps({"learner_steps": 7} | dict.fromkeys((CHAIN, PARAMS, BATCH), "0a")) + "\n"
        for arguments, message in [
            ([a, str(tmp_path / "nowhere")], "nowhere is not the folder of a run: it has no config.json"),
            ([a, write_run("empty", updates=0)], "empty has no row of metrics yet"),
            ([a, old], "has rows without fingerprint/batch"),
            ([write_run("short", updates=1), write_run("late", updates=0, tail=late)], "no row of the same update"),
            ([a, write_run("broken", tail="{oops\n")], "line 21 is not JSON"),
            ([a], "required: B"),
            ([a, a, "--fast"], "Unrecognized arguments: --fast"),
        ]:
            assert command.main(["compare_runs.py", *arguments]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1

    def test_waits_for_neither_jax_nor_environments(self):
        slow = "{'jax', 'flax', 'envpool', 'orbax'}"
        code = f"import sys, podrl.commands.compare_runs; print(sorted({slow} & sys.modules.keys()))"
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert result.stdout == "[]\n"


def test_a_config_file_that_was_moved_changes_nothing():
    before, after = ({"commit": "c0ffee", "config_folders": [folder]} for folder in ("/a", "/b"))
    assert not changes(before, after)
    assert changes(before, after | {"commit": "beef"}) == ["commit was c0ffee, is beef"]
