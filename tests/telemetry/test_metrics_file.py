"""Rows are read one by one, and dropped in place: a run of weeks leaves a gigabyte of them."""

import errno
import json
import os
from pathlib import Path
import random
import tracemalloc

from etils import epath
import pytest

from podrl.commands import plot
from podrl.config.config import ConfigError
from podrl.runs.comparison import compare_runs
from podrl.runs.progress import newest_update
from podrl.runs.records import Rows, read_record
from podrl.studies.measurement import measure_rows
from podrl.telemetry import kept_rows, metrics_file
from podrl.telemetry.kept_rows import drop_rows, has_row_with, run_seconds
from podrl.telemetry.rates import CLOCK_FIELDS, RunClock
from podrl.telemetry.writer import MetricsWriter
from podrl.types import Counters


def make_row(update, **fields):
    return {"learner_steps": update, "env_steps": 10 * update, "env_steps_per_second": 5.0} | fields


def lines_of(*found):
    return [json.dumps(row) + "\n" for row in found]


def write(tmp_path, *texts):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(texts))
    return path


ODD_LINES = [
    {"a": 1, "b": None, "c": True, "d": "text", "e": -1.5e-7},
    {"a": "x, y", "b": [1, 2], "c": {"a": 3}, "d": 'quoted "a": 4', "e": ""},
    {"aa": 1, "b": float("nan"), "c": 10**20, "d": "}", "e": -3},
    {"z": 0},
    {},
]


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
@pytest.mark.parametrize("row", ODD_LINES, ids=range(len(ODD_LINES)))
def test_fields_are_what_json_says(row, separators):
    line = (json.dumps(row, separators=separators) + "\n").encode()
    expected = {name: value for name, value in json.loads(line).items() if name in "abcde"}
    assert repr(metrics_file.field_reader("abcde")(line)) == repr(dict(sorted(expected.items())))


@pytest.mark.parametrize("line", [b"{oops\n", b'{"a": 1, "b{"a": 2}\n', b"5\n", b'{"a": \n', b"\xff\n", b"\n"])
def test_a_broken_line_is_no_row(line):
    with pytest.raises(ValueError, match=r"JSON|Expect|expected|codec|line 1"):
        metrics_file.field_reader(["a"])(line)
    assert metrics_file.parse_row(line) is None
    assert metrics_file.update_of(line) is None


@pytest.mark.parametrize("end", ["", "\n"])
def test_lines_are_read_from_the_end_over_the_borders_of_blocks(tmp_path, monkeypatch, end):
    lines = ["x" * length + "\n" for length in (1, 30, 0, 7, 8, 9, 16, 3)] + [f"last{end}"]
    path = epath.Path(write(tmp_path, *lines))
    for size in (1, 7, 8, 64, 1000):
        monkeypatch.setattr(metrics_file, "BLOCK_BYTES", size)
        assert list(metrics_file.read_back(path)) == [line.encode() for line in reversed(lines)]


class TestDrop:
    def test_the_last_rows_are_cut_off_and_nothing_is_written(self, tmp_path, monkeypatch):
        texts = lines_of(*map(make_row, range(1, 9)))
        path = write(tmp_path, *texts, '{"learner_st')
        monkeypatch.setattr(kept_rows, "_write_at", None)
        drop_rows(path, 5)
        assert path.read_text() == "".join(texts[:5])
        before = os.stat(path)
        drop_rows(path, 5)
        assert os.stat(path) == before
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("block", [1, 300, 1 << 20])
    def test_rows_to_keep_between_others_stay_in_order(self, tmp_path, monkeypatch, block):
        monkeypatch.setattr(kept_rows, "BLOCK_BYTES", block)
        texts = mixed_lines()
        path = write(tmp_path, *texts)
        drop_rows(path, 12)
        assert path.read_text() == kept_of(texts)
        assert list(tmp_path.iterdir()) == [path]

    def test_one_that_was_cut_short_anywhere_is_finished_by_the_next(self, tmp_path, monkeypatch):
        """What is written last before the end may be half there."""
        monkeypatch.setattr(kept_rows, "BLOCK_BYTES", 300)
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # The process is killed here, not the machine.
        texts, write_at = mixed_lines(), kept_rows._write_at
        moves = 0
        while True:
            path, left = write(tmp_path, *texts), moves

            def write_half(file, position, text):
                nonlocal left
                left -= 1
                write_at(file, position, text[: len(text) // 2] if left < 0 else text)
                if left < 0:
                    raise KeyboardInterrupt

            monkeypatch.setattr(kept_rows, "_write_at", write_half)
            try:
                drop_rows(path, 12)
                break
            except KeyboardInterrupt:
                assert (tmp_path / metrics_file.MOVED).exists()
            monkeypatch.setattr(kept_rows, "_write_at", write_at)
            drop_rows(path, 12)
            assert path.read_text() == kept_of(texts)
            assert list(tmp_path.iterdir()) == [path]
            moves += 1
        assert moves > 5

    @pytest.mark.parametrize("rows_now", [3, 60, 90])
    def test_one_of_a_file_that_is_another_now_is_forgotten(self, tmp_path, monkeypatch, rows_now):
        """As where a good copy was put in its place."""
        path = write(tmp_path, *mixed_lines())

        def fail(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(kept_rows, "_write_at", fail)
            with pytest.raises(KeyboardInterrupt):
                drop_rows(path, 12)
        with pytest.raises(
            ConfigError, match=r"line 21 is not JSON.* or was cut short; the next start finishes that\.$"
        ):
            list(Rows(epath.Path(path)))
        text = "".join(lines_of(*map(make_row, range(rows_now))))
        path.write_text(text)
        drop_rows(path, 100)
        assert path.read_text() == text
        assert list(tmp_path.iterdir()) == [path]

    def test_one_that_was_killed_before_its_end_was_noted(self, tmp_path, monkeypatch):
        texts = mixed_lines()
        path = write(tmp_path, *texts)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            drop_rows(path, 12)
        assert (tmp_path / metrics_file.MOVED).exists()
        drop_rows(path, 12)
        assert path.read_text() == kept_of(texts)
        assert list(tmp_path.iterdir()) == [path]

    def test_one_that_finds_no_room_leaves_all_as_it_was(self, tmp_path, monkeypatch):
        texts = mixed_lines()
        path = write(tmp_path, *texts)

        def fail(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        message = "cannot be written .No space left on device"
        with pytest.raises(RuntimeError, match=message):
            MetricsWriter(tmp_path, tensorboard=False, resumed=Counters(learner_steps=12))
        assert path.read_text() == "".join(texts)
        assert list(tmp_path.iterdir()) == [path]


def mixed_lines():
    """Rows of many lengths, some of later updates, some broken, the last whole but without its end."""
    rng = random.Random(1)
    found = [make_row(rng.randrange(1, 25), text="x" * rng.randrange(200)) for _ in range(60)]
    texts = lines_of(*found)
    texts[20:20] = ["\0\0\n", '{"learner_steps": 3, "en{"learner_steps": 4}\n']
    return [*texts, json.dumps(make_row(7))]


def kept_of(texts):
    whole = [text for text in texts if metrics_file.parse_row(text.encode())]
    return "".join(text.rstrip("\n") + "\n" for text in whole if json.loads(text)["learner_steps"] <= 12)


def test_a_row_with_a_metric_is_found_from_the_end(tmp_path, monkeypatch):
    texts = [make_row(1), {"learner_steps": 1, "x": 1}, make_row(2), {"learner_steps": 2, "x": 1}]
    texts += [make_row(4), {"learner_steps": 3, "x": 1}, {"a": 1}, make_row(5)]
    write(tmp_path, *lines_of(*texts), '{"torn')
    assert [has_row_with(tmp_path, "x", update) for update in range(6)] == [False, True, True, True, False, False]
    assert not has_row_with(tmp_path / "nowhere", "x", 0)


def test_an_object_whose_later_rows_are_not_dropped_yet_is_read_without_them(tmp_path):
    evaluation = {"learner_steps": 3, "x": 1, "time/wall_s": 40.0}
    write(
        tmp_path, *lines_of(*(make_row(update, **{"time/wall_s": 10.0 * update}) for update in (1, 2, 3)), evaluation)
    )
    with MetricsWriter(tmp_path, tensorboard=False, resumed=Counters(learner_steps=2), appends=False):
        assert not has_row_with(tmp_path, "x", 2)
        assert run_seconds(tmp_path, 2) == 20


def test_a_file_that_is_cut_while_it_is_read_ends_there(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_file, "BLOCK_BYTES", 50)
    path = write(tmp_path, *lines_of(*map(make_row, range(9))))
    lines = metrics_file.read_back(epath.Path(path))
    next(lines)
    path.write_text("")
    assert all(metrics_file.parse_row(line) is None for line in list(lines)[1:])


class TestClock:
    OLD = (make_row(1, **{"time/wall_s": 20.0, "time/start": 0}), make_row(2, **{"time/wall_s": 25.0}))
    OLD += (make_row(3, **{"time/wall_s": 30.0, "time/start": 2}), make_row(4, **{"time/wall_s": 31.5}))
    SILENT = tuple(make_row(1 + index, **{"time/wall_s": wall_s}) for index, wall_s in enumerate((20, 25, 24, 20)))
    EVALUATION = {"learner_steps": 4, "evaluate/return": 1.0, "time/wall_s": 33.0}  # noqa: RUF012
    NEW = (make_row(5, **{"time/wall_s": 60.0, "time/before_s": 56.5, "time/start": 4}),)
    NEW += (make_row(6, **{"time/wall_s": 61.0}),)
    NEWER = (
        {"learner_steps": 6, "evaluate/return": 2.0, "time/wall_s": 63.0, "time/before_s": 61.0},
        make_row(7, **{"time/wall_s": 64.0, "time/start": 6}),
    )

    NEWEST = (
        make_row(9, **{"time/wall_s": 80.0, "time/before_s": 56.5, "time/start": 4, "time/first_update_s": 62.0}),
    )

    @pytest.mark.parametrize(
        ("found", "expected", "trained"),
        [
            (OLD, [20, 25, 55, 56.5], [0, 5, 5, 6.5]),
            (SILENT, [20, 25, 49, 69], [0, 5, 29, 49]),
            ((*OLD, EVALUATION), [20, 25, 55, 56.5, 58], [0, 5, 5, 6.5, 8]),
            (
                (*OLD, EVALUATION, *NEW, *NEWER),
                [20, 25, 55, 56.5, 58, 60, 61, 63, 64],
                [0, 5, 5, 6.5, 8, 6.5, 7.5, 9.5, 7.5],
            ),
            ((*OLD, *NEWEST), [20, 25, 55, 56.5, 80], [0, 5, 5, 6.5, 24.5]),
            ((), [], []),
        ],
    )
    def test_adds_up_over_starts_of_every_version(self, tmp_path, found, expected, trained):
        clock = RunClock()
        assert [clock.read({k: row[k] for k in row if k in CLOCK_FIELDS}) for row in found] == expected
        write(tmp_path, *lines_of(*found))
        updates = [seconds for seconds, row in zip(expected, found, strict=True) if "env_steps_per_second" in row]
        assert run_seconds(tmp_path, 10) == max(updates, default=0)
        (tmp_path / "config.json").write_text('{"name": "a", "env": {"id": "b"}, "log": {"episodes": 1}}')
        if found:
            curve = plot.read_curve(str(tmp_path), "wall", "learner_steps")
            assert curve.x.tolist() == sorted(trained)

    def test_a_file_keeps_milliseconds_in_weeks(self, tmp_path):
        with MetricsWriter(tmp_path, tensorboard=False) as writer:
            begin = {"time/before_s": 1_234_512.3456, "time/first_update_s": 1_234_552.3456}
            writer.write({"time/wall_s": 1_234_567.89012} | begin, 1)
            writer.write({"time/wall_s": 12.3456789}, 2)
        assert [row["time/wall_s"] for row in read_all(tmp_path)] == [1_234_567.89, 12.3457]
        assert read_all(tmp_path)[0]["time/before_s"] == 1_234_512.346
        assert read_all(tmp_path)[0]["time/first_update_s"] == 1_234_552.346


def read_all(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


NUM_ROWS = 9_000


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A run with 10 MB of rows, of three starts."""
    folder = tmp_path_factory.mktemp("long")
    filler = {f"time/learner/bucket_{number}": 0.0123456 for number in range(25)}
    with (folder / "metrics.jsonl").open("w") as file:
        for update in range(1, NUM_ROWS + 1):
            start = (update - 1) * 3 // NUM_ROWS * NUM_ROWS // 3
            hashes = dict.fromkeys(("fingerprint", "fingerprint/batch", "fingerprint/params"), f"{update:016x}")
            row = make_row(update, frames=10 * update, **{"time/wall_s": float(update - start)} | hashes | filler)
            row |= {"episode/return": update / 7} | ({"time/start": start} if update == start + 1 else {})
            file.write(json.dumps(row) + "\n")
    config = {"name": "a", "seed": 1, "env": {"id": "b"}, "log": {"episodes": 1, "every_updates": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def resume(folder):
    with MetricsWriter(folder, tensorboard=False, resumed=Counters(learner_steps=NUM_ROWS)):
        assert run_seconds(folder, NUM_ROWS) == pytest.approx(NUM_ROWS, rel=0.01)


def plot_wall(folder):
    assert plot.read_curve(str(folder), "wall", "episode/return").x[-1] == pytest.approx(NUM_ROWS, rel=0.01)


READERS = {
    "resume": resume,
    "plot": plot_wall,
    "compare": lambda folder: compare_runs(*(read_record(str(folder)) for _ in range(2))),
    "launcher": lambda folder: newest_update(str(folder)),
    "study": lambda folder: measure_rows(read_record(str(folder)).rows, 3),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_keeps_the_rows(long_run, reader):
    """All of them would be 30 MB and more in memory, and their text 10 MB."""
    READERS[reader](long_run)  # What it loads once is no matter here.
    tracemalloc.start()
    try:
        READERS[reader](long_run)
        assert tracemalloc.get_traced_memory()[1] < 2.5e6
    finally:
        tracemalloc.stop()


def test_a_figure_has_no_more_points_than_can_be_seen(long_run):
    curve = plot.read_curve(str(long_run), "env_steps", "episode/return")
    x, y = plot.plotting.thin(curve.x, -curve.y, columns=100)
    assert len(x) <= 400
    assert (x[0], x[-1], y.min(), y.max()) == (10, 10 * NUM_ROWS, -curve.y.max(), -curve.y.min())


def test_of_several_rows_of_an_update_the_last_counts(tmp_path):
    """As where a run was made again from a checkpoint before."""
    write(tmp_path, *lines_of(*(make_row(update, y=value) for value, update in enumerate((1, 2, 3, 2, 3)))))
    (tmp_path / "config.json").write_text('{"name": "a", "env": {"id": "b"}, "log": {"episodes": 1}}')
    curve = plot.read_curve(str(tmp_path), "env_steps", "y")
    assert (curve.x.tolist(), curve.y.tolist()) == ([10, 20, 30], [0, 3, 4])
