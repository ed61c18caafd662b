"""A trace is read back as Perfetto would: what is in it, and what it leaves alone."""

import gzip
import json

import jax
import pytest

from podrl import train
from podrl.experience.actors import ActorError
from podrl.runtime.profiler import Profiler, choose_window
from tests import short_runs


def traces(folder):
    return list(folder.glob("**/*.trace.json.gz"))


def spans(folder):
    """(name, thread, start and end in microseconds, arguments) of all spans in the one trace below `folder`."""
    (path,) = traces(folder)
    events = [event for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"] if "dur" in event]
    return [(e["name"], e["tid"], e["ts"], e["ts"] + e["dur"], e.get("args", {})) for e in events]


def traced_updates(folder):
    return [int(arguments["step_num"]) for name, *_, arguments in spans(folder) if name == "update"]


def wrote_no_trace(folder):
    """Whether no trace is there, nor open: a second one would be refused."""
    jax.profiler.start_trace(folder / "second")
    jax.profiler.stop_trace()
    return len(traces(folder)) == 1


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """A run of ten updates with a profile and the same without: folder and rows of both."""
    folders = [tmp_path_factory.mktemp(name) / "run" for name in ("with", "without")]
    for folder, profile in zip(folders, (True, False), strict=True):
        config = short_runs.make_config(topology__actor_devices_per_process=1, topology__learner_devices_per_process=1)
        train.train(config, workdir=str(folder), profile=profile)
    rows = [[json.loads(row) for row in (f / "metrics.jsonl").read_text().splitlines()] for f in folders]
    return folders, rows


def test_a_profile_shows_what_every_thread_does(profiled):
    (folder, _), _ = profiled
    threads = {}
    for name, thread, *_ in spans(folder / "profile"):
        threads.setdefault(name, set()).add(thread)
    learner = [threads[name] for name in ("update", "learner/learn", "learner/publish", "learner/wait_rollouts")]
    actor = [threads[f"actor 0/{bucket}"] for bucket in ("act", "env", "transfer", "wait_params", "wait_rollouts")]
    assert all(found == learner[0] and len(found) == 1 for found in learner)
    assert all(found == actor[0] and len(found) == 1 for found in actor)
    assert learner[0] != actor[0]


def test_a_profile_shows_the_programs_of_its_updates_from_start_to_end(profiled):
    (folder, _), _ = profiled
    assert traced_updates(folder / "profile") == [6, 7, 8, 9, 10]
    modules = {}
    for *_, arguments in spans(folder / "profile"):
        modules.setdefault(arguments.get("hlo_module"), set()).add(arguments.get("run_id"))
    assert len(modules["jit__take_and_update"]) >= 5
    assert len(modules["jit_act"]) >= 4 * 4


def test_a_profile_changes_no_result(profiled):
    _, (with_profile, without) = profiled
    assert [row["fingerprint"] for row in with_profile] == [row["fingerprint"] for row in without]
    assert len(without) == 10


def test_a_run_that_was_not_asked_to_leaves_no_profile(profiled):
    (_, folder), _ = profiled
    assert not (folder / "profile").exists()
    assert not traces(folder)


def test_the_trace_ends_when_its_last_update_has_ended(tmp_path):
    """Which is after the next was launched and before the next but one is."""
    with Profiler(tmp_path, last_update=1000) as profiler:
        for update in range(1, 13):
            assert not traces(tmp_path)
            profiler.before_update(update)
        assert traced_updates(tmp_path) == [6, 7, 8, 9, 10, 11]
    assert len(traces(tmp_path)) == 1


@pytest.mark.parametrize(
    ("first", "last", "window"),
    [(1, 1000, (6, 10)), (1, 10, (6, 10)), (1, 9, (5, 9)), (1, 3, (1, 3)), (1, 1, (1, 1)), (501, 1000, (506, 510))],
)
def test_a_short_run_is_traced_at_its_end(first, last, window):
    chosen = choose_window(first, last)
    assert (chosen.start, chosen.stop - 1) == window


def test_a_run_that_fails_leaves_the_trace_of_what_came_before(tmp_path):
    """A rollout takes 4 timesteps, so the 30th is of the eighth."""
    config = short_runs.scripted_config({"raise_at_step": 30})
    with pytest.raises(ActorError, match="scripted failure"), Profiler(tmp_path / "a", last_update=10) as profiler:
        short_runs.run(config, before_update=profiler.before_update, annotate=profiler.annotate)
    assert traced_updates(tmp_path / "a") == [6, 7, 8]
    assert wrote_no_trace(tmp_path / "b")


def test_a_run_that_ends_before_the_window_says_so(tmp_path, caplog):
    with caplog.at_level("INFO", logger="absl"), Profiler(tmp_path, last_update=100) as profiler:
        for update in (1, 2, 3):
            profiler.before_update(update)
    assert "Nothing was profiled: the run ended within its first 5 updates." in caplog.text
    assert wrote_no_trace(tmp_path)


def test_the_log_says_what_was_traced_and_where_it_is(tmp_path, caplog):
    with caplog.at_level("INFO", logger="absl"), Profiler(tmp_path, last_update=2) as profiler:
        profiler.before_update(1)
        profiler.before_update(2)
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Profiled")]
    assert line.startswith("Profiled updates 1 to 2, written in ")
    assert str(traces(tmp_path)[0]) in line
    assert "https://ui.perfetto.dev" in line
