"""Runs go to trackers once, whatever happens to the export or to the run; with the trackers' own packages, offline.

trackio is among what `dev` installs. W&B and MLflow are large: `pip install -e '.[wandb,mlflow]'` lets the same tests
run with them, which are skipped otherwise.
"""

import base64
import contextlib
import datetime
import importlib.util
import json
import os
from pathlib import Path
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from podrl.commands import export
from podrl.config.config_dict import to_dict
from podrl.runs.heartbeat import Heartbeat
from podrl.runs.records import read_manifests
from podrl.runs.run_files import clear_run, write_json
from podrl.runs.run_id import find_run_id
from podrl.runs.trackers import export_run, to_wandb
from podrl.runs.trackers.items import RunFiles
from podrl.runtime import waiting
from podrl.telemetry.writer import MetricsWriter
from podrl.types import Counters
from tests.processes import ROOT, finish, running, wait_for
from tests.short_runs import make_config

RUN_ID = "0123456789ab"
PROGRAM = ROOT / "tools/export.py"
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


def with_package(name):
    missing = importlib.util.find_spec(name) is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"wants {name}: pip install -e '.[{name}]'"))


each_tracker = pytest.mark.parametrize("tracker", [with_package(name) for name in ("trackio", "mlflow", "wandb")])


@pytest.fixture(autouse=True)
def stores(tmp_path, monkeypatch):
    """Each tracker's local store is in the test's folder."""
    monkeypatch.chdir(tmp_path)
    if importlib.util.find_spec("trackio"):
        import trackio  # It reads the variable once.

        places = {"TRACKIO_DIR": tmp_path / "trackio", "MEDIA_DIR": tmp_path / "trackio/media"}
        for module in [module for name, module in sys.modules.items() if name.split(".")[0] == trackio.__name__]:
            for name in places.keys() & vars(module).keys():
                monkeypatch.setattr(module, name, places[name])
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    if importlib.util.find_spec("mlflow"):
        import mlflow

        mlflow.set_tracking_uri(None)
    yield
    if importlib.util.find_spec("wandb"):
        import wandb

        wandb.teardown()  # It keeps folders and a process.


@pytest.fixture
def run(tmp_path):
    """The folder of a run of 100 updates that has begun."""
    folder = tmp_path / "run"
    folder.mkdir()
    begin(folder, RUN_ID)
    return folder


def begin(folder, run_id, *, started="2026-12-01T12:00:00+0000"):
    """Writes what a run of 100 updates writes first."""
    write_json(folder / "manifest.json", {"run_id": run_id, "started": started, "argv": []})
    write_json(folder / "config.json", to_dict(make_config(total_env_steps=100 * 32)))


def write_rows(folder, updates, *, loss=1.0, resumed=None, evaluated=()):
    """Rows as a run writes them; one that resumes drops those of later updates first."""
    start = None if resumed is None else Counters(learner_steps=resumed, env_steps=32 * resumed, frames=32 * resumed)
    with MetricsWriter(folder, tensorboard=False, resumed=start) as writer:
        for update in updates:
            counters = {"learner_steps": update, "env_steps": 32 * update, "frames": 32 * update}
            rate = {"env_steps_per_second": 5.0, "loss/total": loss + update, "time/wall_s": 0.1 * update}
            writer.write({**counters, **rate, "fingerprint": "00ff"}, 0)
        for update in evaluated:
            counters = {"learner_steps": update, "env_steps": 32 * update, "frames": 32 * update}
            writer.write({**counters, "evaluate/return": 0.5 * update, "time/wall_s": 0.1 * update}, 0)


def send(tracker, run, *more):
    return export.main(["export", "--to", tracker, str(run), *more])


def points(tracker, name, *, run_id=RUN_ID, project="test"):
    """(update, value) of a metric, as the tracker has them, in order."""
    return sorted({"trackio": of_trackio, "mlflow": of_mlflow, "wandb": of_wandb}[tracker](name, run_id, project))


def of_trackio(name, run_id, project):
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs(project, f"test-{run_id}", run_id=run_id)
    return [(row["step"], row[name]) for row in rows if name in row]


def of_mlflow(name, run_id, project):
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(project).experiment_id
    (run,) = client.search_runs([experiment], f"tags.`podrl.run_id` = '{run_id}'")
    return [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]


def of_wandb(name, run_id, project):
    """From the sessions of a project, in the order in which they were made."""
    found, steps = [], []
    for path in sorted(Path("wandb").glob(f"offline-run-*/run-{run_id}.wandb")):
        records = list(wandb_records(path))
        if {record.run.project for record in records if record.WhichOneof("record_type") == "run"} != {project}:
            continue
        for record in records:
            if record.WhichOneof("record_type") == "history":
                row = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                steps.append(record.history.step.num)
                update = row.get("learner_steps") or row.get("evaluate/learner_steps") or "0"
                if name in row:
                    with contextlib.suppress(TypeError):
                        found.append((int(update), float(json.loads(row[name]))))
    assert steps == sorted(set(steps))  # W&B's own steps go on over all sessions.
    return found


def wandb_records(path):
    """From W&B's own file: blocks of 32 KB, with a header before each part of a record."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, part = struct.unpack("<IHB", data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if part in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


@each_tracker
def test_a_run_that_is_exported_twice_is_there_once(tracker, run, capsys):
    write_rows(run, range(10, 51, 10), evaluated=[20])
    assert send(tracker, run) == 0
    assert send(tracker, run) == 0
    assert points(tracker, "loss/total") == [(update, 1.0 + update) for update in range(10, 51, 10)]
    assert points(tracker, "evaluate/return") == [(20, 10.0)]


@each_tracker
def test_rows_that_a_resume_makes_again_are_skipped_and_later_ones_follow(tracker, run):
    write_rows(run, range(10, 51, 10), evaluated=[20])
    send(tracker, run)
    write_rows(run, range(40, 71, 10), loss=2.0, resumed=30, evaluated=[20, 40])
    send(tracker, run)
    before, after = [(update, 1.0 + update) for update in range(10, 51, 10)], [(60, 62.0), (70, 72.0)]
    assert points(tracker, "loss/total") == before + after
    assert points(tracker, "evaluate/return") == [(20, 10.0), (40, 20.0)]


@each_tracker
def test_an_export_that_is_killed_is_completed_by_the_next(tracker, run, tmp_path):
    write_rows(run, range(10, 1001, 10))
    write_json(run / "config.json", to_dict(make_config(total_env_steps=2000 * 32)))  # So it waits for more.
    with running("--to", tracker, run, "--follow", cwd=tmp_path, program=PROGRAM) as process:
        begun = {
            "trackio": "trackio/test.db",
            "mlflow": "mlruns/*/*/artifacts/*",
            "wandb": "wandb/offline-run-*/*.wandb",
        }
        wait_for(lambda: any(each.stat().st_size for each in tmp_path.glob(begun[tracker])), process)
        time.sleep(0.3)
        process.kill()
    write_rows(run, [1010])
    assert send(tracker, run) == 0
    assert points(tracker, "loss/total") == [(update, 1.0 + update) for update in range(10, 1011, 10)]


@pytest.mark.parametrize("tracker", [with_package("mlflow")])
@pytest.mark.parametrize("left", ["empty", "tables", "killed"])
def test_a_database_that_was_left_unfinished_is_made_anew(tracker, left, run, tmp_path, caplog):
    """MLflow makes its tables one after the other; a process of its own may have been killed meanwhile."""
    path = tmp_path / "mlflow.db"
    if left == "killed":
        making = "import mlflow; mlflow.MlflowClient().search_experiments()"
        with subprocess.Popen([sys.executable, "-c", making], cwd=tmp_path) as process:
            wait_for(lambda: path.exists() and path.stat().st_size > 100_000, process)
            process.kill()
    else:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE runs (id)" if left == "empty" else "CREATE TABLE experiments (id)")
    write_rows(run, [10, 20])
    assert send(tracker, run) == 0
    assert points(tracker, "loss/total") == [(10, 11.0), (20, 21.0)]
    assert f"{path} was left unfinished by a process that ended while MLflow made it" in caplog.text
    assert (tmp_path / "mlflow.db.unfinished").exists()
    assert send(tracker, run) == 0
    assert caplog.text.count("was left unfinished") == 1
    assert not list(tmp_path.glob(".mlflow.db*"))


@pytest.mark.parametrize("tracker", [with_package("mlflow")])
@pytest.mark.parametrize("amid_a_transaction", [False, True])
def test_a_database_of_another_program_is_refused_and_stays_as_it_is(
    tracker, amid_a_transaction, run, tmp_path, capsys
):
    path = tmp_path / "mlflow.db"
    lines = [
        "PRAGMA journal_mode=wal",
        "CREATE TABLE runs (id)",
        "CREATE TABLE films (id)",
        "INSERT INTO films VALUES (1)",
    ]
    if amid_a_transaction:
        lines = [*lines[1:], "PRAGMA cache_size=1", "BEGIN", "INSERT INTO films VALUES (zeroblob(100000))"]
    filling = (
        "import os, sqlite3, sys\ndatabase = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for line in sys.argv[2:]:\n    database.execute(line)\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", filling, path, *lines], check=False)
    assert (tmp_path / ("mlflow.db-journal" if amid_a_transaction else "mlflow.db-wal")).exists()
    write_rows(run, [10])
    assert send(tracker, run) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error" in each]
    assert line == (
        f"export: error: MLflow cannot be written: {path} is another program's database, as it has the table films. "
        "Look at MLFLOW_TRACKING_URI."
    )
    assert not list(tmp_path.glob("*.unfinished*"))
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT id FROM films").fetchall() == [(1,)]


@pytest.mark.parametrize("tracker", [with_package("mlflow")])
def test_a_database_that_is_set_aside_is_whole_and_replaces_none(tracker, run, tmp_path, caplog):
    write_rows(run, [10])
    (tmp_path / "mlflow.db.unfinished").write_text("earlier")
    making = (
        "import os, sqlite3\ndatabase = sqlite3.connect('mlflow.db')\ndatabase.execute('PRAGMA journal_mode=wal')\n"
        "database.execute('CREATE TABLE metrics (id)')\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", making], cwd=tmp_path, check=False)
    assert send(tracker, run) == 0
    assert "is now mlflow.db.unfinished-2, and" in caplog.text
    assert (tmp_path / "mlflow.db.unfinished").read_text() == "earlier"
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db.unfinished-2")) as database:
        assert database.execute("SELECT name FROM sqlite_schema").fetchall() == [("metrics",)]
    assert points(tracker, "loss/total") == [(10, 11.0)]


@pytest.mark.parametrize("tracker", [with_package("mlflow")])
@pytest.mark.parametrize("other_was_faster", [False, True])
def test_a_database_is_made_where_there_are_no_hard_links(tracker, other_was_faster, run, tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"

    def link(source, target):
        if other_was_faster:
            shutil.copy(source, target)
            with contextlib.closing(sqlite3.connect(target)) as database, database:
                database.execute("CREATE TABLE other (id)")
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    write_rows(run, [10])
    assert send(tracker, run) == 0
    assert points(tracker, "loss/total") == [(10, 11.0)]
    assert not list(tmp_path.glob(".mlflow.db*"))
    with contextlib.closing(sqlite3.connect(path)) as database:
        others = database.execute("SELECT name FROM sqlite_schema WHERE name = 'other'").fetchall()
    assert bool(others) == other_was_faster


@pytest.mark.parametrize("tracker", [with_package("mlflow")])
def test_a_database_that_cannot_be_written_is_told_in_one_line(tracker, run, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/none/mlflow.db")
    assert send(tracker, run) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error" in each]
    assert line.startswith("export: error: MLflow cannot be written: ")
    assert line.endswith("Look at MLFLOW_TRACKING_URI.")


@each_tracker
def test_following_brings_what_comes_and_ends_with_the_run(tracker, run, tmp_path):
    """The test is the run: it has the heartbeat, writes, resumes from an earlier update, and ends."""
    with contextlib.ExitStack() as under_way:
        under_way.callback(Heartbeat(run).close)
        write_rows(run, range(10, 51, 10))
        with running("--to", tracker, run, "--follow", "--poll_s=0.1", cwd=tmp_path, program=PROGRAM) as process:
            time.sleep(3.0)
            write_rows(run, range(40, 91, 10), loss=2.0, resumed=30)
            time.sleep(1.0)
            assert process.poll() is None
            write_rows(run, [100], loss=2.0, evaluated=[70])
            under_way.close()
            said = finish(process)
    assert process.returncode == 0, said
    found = points(tracker, "loss/total")
    assert [update for update, _ in found] == list(range(10, 101, 10))
    assert found[-1] == (100, 102.0)
    assert points(tracker, "evaluate/return") == [(70, 35.0)]


class Clock:
    """A clock that runs while code sleeps; it stands in for the module `time`."""

    def __init__(self):
        self.now_s = 0.0

    def sleep(self, seconds):
        self.now_s += seconds

    def monotonic(self):
        return self.now_s


@pytest.mark.parametrize(("wait_s", "poll_s"), [(60.0, 5.0), (5.0, 60.0), (60.0, 60.0), (1.0, 0.5), (0.0, 5.0)])
def test_following_waits_as_long_as_told_for_a_run_that_was_stopped(wait_s, poll_s, run, monkeypatch):
    clock, written = Clock(), []
    monkeypatch.setattr(export_run, "time", clock)
    monkeypatch.setattr(waiting, "time", clock)
    tracker = SimpleNamespace(marks={}, write=written.extend, close=lambda *, finished: None)
    monkeypatch.setattr(export_run, "open_tracker", lambda *_: tracker)
    write_rows(run, [10, 20])
    assert export_run.export_run(str(run), "trackio", None, follow=True, wait_s=wait_s, poll_s=poll_s) == 2
    assert [item.mark for item in written] == [10, 20]
    assert clock.now_s == pytest.approx(wait_s)


@each_tracker
def test_a_run_that_is_started_anew_while_it_is_followed_stays_apart(tracker, run, monkeypatch, capsys):
    def start_anew(_):
        clear_run(run)
        begin(run, "ba9876543210")
        write_rows(run, [10, 20, 30], loss=2.0)

    write_rows(run, [10, 20])
    monkeypatch.setattr(export_run, "time", SimpleNamespace(sleep=start_anew))
    assert send(tracker, run, "--follow") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("export: ")]
    assert line.startswith(f"export: error: {run} now has another run, ba9876543210: {RUN_ID} was deleted")
    assert points(tracker, "loss/total") == [(10, 11.0), (20, 21.0)]
    assert send(tracker, run) == 0
    assert points(tracker, "loss/total") == [(10, 11.0), (20, 21.0)]
    assert points(tracker, "loss/total", run_id="ba9876543210") == [(10, 12.0), (20, 22.0), (30, 32.0)]


@each_tracker
def test_each_project_gets_all_of_a_run_and_what_is_new_to_it(tracker, run):
    write_rows(run, [10, 20])
    send(tracker, run)
    send(tracker, run, "--project", "other")
    write_rows(run, [30])
    send(tracker, run, "--project", "other")
    write_rows(run, [40])
    send(tracker, run, "--project", "other")
    send(tracker, run)
    expected = [(update, 1.0 + update) for update in (10, 20, 30, 40)]
    assert points(tracker, "loss/total") == expected
    assert points(tracker, "loss/total", project="other") == expected


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wants wandb: pip install -e '.[wandb]'")
def test_an_interrupted_export_to_one_project_of_wandb_stays_until_the_next_to_it(run, monkeypatch):
    import wandb

    def interrupt(tracker, *, finished):
        raise KeyboardInterrupt

    def sessions():
        notes = [json.loads(path.read_text()) for path in Path("wandb").glob("offline-run-*/podrl.json")]
        return sorted((note["project"], note["new"]) for note in notes)

    write_rows(run, [10, 20])
    with monkeypatch.context() as patched:
        patched.setattr(to_wandb.WandbRun, "close", interrupt)
        assert send("wandb", run) == 130
    wandb.teardown()
    send("wandb", run, "--project", "other")
    assert sessions() == [("other", 2), ("test", 0)]
    send("wandb", run)
    assert sessions() == [("other", 2), ("test", 2)]
    assert points("wandb", "loss/total") == [(10, 11.0), (20, 21.0)]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
@pytest.mark.parametrize(
    "started", ["2026-12-01T12:00:00+0000", "2026-12-01T07:00:00-0500", "2026-12-01T17:45:00+0545"]
)
def test_times_are_those_of_the_run_wherever_it_is_exported(started, zone, run, monkeypatch):
    begin(run, RUN_ID, started=started)
    write_rows(run, [10])
    with monkeypatch.context() as there:
        there.setenv("TZ", zone)
        time.tzset()
        (item,) = RunFiles(str(run)).read()
    time.tzset()
    assert item.time_s == datetime.datetime(2026, 12, 1, 12, 0, 1, tzinfo=datetime.UTC).timestamp()


@each_tracker
def test_pictures_and_videos_go_along_once_until_they_change(tracker, run, tmp_path):
    write_rows(run, [10])
    (run / "catch.gif").write_bytes(GIF)
    os.utime(run / "catch.gif", (1e9, 1e9))
    (run / "notes.txt").write_text("not for trackers")
    send(tracker, run)
    send(tracker, run)
    assert [value for _, value in points(tracker, "files/catch.gif")] == [1e9]
    os.utime(run / "catch.gif", (2e9, 2e9))
    send(tracker, run)
    assert [value for _, value in points(tracker, "files/catch.gif")] == [1e9, 2e9]
    copies = [path for path in tmp_path.rglob("*.gif") if path.parent != run]
    assert copies
    assert all(path.read_bytes() == GIF for path in copies)
    assert not [path for path in tmp_path.rglob("notes.txt") if path.parent != run]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "trackio", "nowhere"], "nowhere is not the folder of a run: it has no config.json or no manifest"),
        (["--to", "nothing", "run"], "invalid choice: 'nothing'"),
        (["--to", "trackio", "run", "run", "--follow"], "--follow takes one RUN."),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, said, run, capsys):
    assert export.main(["export", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("export: error: ")
    assert said in line


@pytest.mark.parametrize("tracker", ["trackio", "mlflow", "wandb"])
def test_a_package_that_is_missing_is_named_with_its_command(tracker, run, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert send(tracker, run) == 2
    expected = f"--to {tracker} needs the package {tracker}: pip install {tracker}, or pip install -e '.[{tracker}]'."
    assert capsys.readouterr().err == f"export: error: {expected}\n"


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="wants trackio: pip install -e '.[trackio]'")
def test_a_run_keeps_its_id_when_it_resumes_and_moves_and_its_checkpoints_go_along(tmp_path, capsys):
    from podrl import train

    config = make_config(name="test", checkpoint__every_updates=4, topology__learner_devices_per_process=1)
    train.train(config, workdir=str(tmp_path / "run"))
    run_id = find_run_id(tmp_path / "run")
    saved = json.loads((tmp_path / "run/checkpoints/8/manifest/metadata").read_text())
    assert saved["run_id"] == run_id
    shutil.move(tmp_path / "run", tmp_path / "moved")
    train.train(config, workdir=str(tmp_path / "moved"))
    manifests = read_manifests(tmp_path / "moved")
    assert [each["run_id"] for each in manifests] == [run_id, run_id]
    send("trackio", tmp_path / "moved")

    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("test", f"test-{run_id}", run_id=run_id)
    checkpoints = {row["step"]: row for row in rows if "checkpoint/size_bytes" in row}
    assert sorted(checkpoints) == [4, 8, 10]
    assert all(row["checkpoint/size_bytes"] > 1000 for row in checkpoints.values())
    assert [row["step"] for row in rows if "loss/total" in row] == list(range(1, 11))

    train.train(config, workdir=str(tmp_path / "moved"), start_anew=True)
    assert find_run_id(tmp_path / "moved") not in (None, run_id)


def test_a_run_from_before_there_were_ids_gets_one_that_stays(tmp_path):
    write_json(tmp_path / "manifest.json", {"started": "2025-01-01T12:00:00+0000", "argv": ["a"]})
    found = find_run_id(tmp_path)
    assert len(found) == 12
    write_json(tmp_path / "manifest-2.json", {"started": "2025-01-02T12:00:00+0000", "argv": ["a"], "run_id": found})
    assert find_run_id(tmp_path) == found
