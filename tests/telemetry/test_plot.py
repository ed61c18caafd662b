import json
import sys

import numpy as np
from PIL import Image
import pytest

from podrl.commands import plot
from podrl.runs import curves


@pytest.fixture
def make_run(tmp_path):
    """Writes a run's folder; its `episode/return` is `slope * env_steps`, and absent in the first row."""

    def make(folder, *, name="catch", env_id="Catch-v0", steps=(100, 200, 300), slope=1.0, tail="", **sections):
        path = tmp_path / folder
        path.mkdir()
        config = {"name": name, "env": {"id": env_id}, "log": {"episodes": 100}, **sections}
        (path / "config.json").write_text(json.dumps(config))
        rows = [{"env_steps": 0, "frames": 0, "time/wall_s": 0.5, "env_steps_per_second": None, "fingerprint": "ab"}]
        rows += [{"env_steps": n, "frames": 4 * n, "time/wall_s": n * 60.0, "episode/return": slope * n} for n in steps]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
        return str(path)

    return make


@pytest.mark.parametrize("x", ["env_steps", "frames", "wall"])
def test_writes_an_image(make_run, tmp_path, x):
    out = tmp_path / "curve.png"
    runs = [make_run("a"), make_run("b", slope=2.0), make_run("c", name="other")]
    assert plot.main(["plot.py", *runs, "--out", str(out), "--x", x]) == 0
    image = out.read_bytes()
    assert image.startswith(b"\x89PNG")
    width, height = (int.from_bytes(image[start : start + 4], "big") for start in (16, 20))
    assert (width, height) == (1600, 900)


def test_a_png_is_small_and_keeps_its_colors(make_run, tmp_path):
    """With all colors it would have 100 kB. Lines are matplotlib's first three."""
    out = tmp_path / "curve.png"
    runs = [make_run("a"), make_run("b", slope=2.0), make_run("c", name="x", slope=3.0), make_run("d", name="y")]
    assert plot.main(["plot.py", *runs, "--out", str(out)]) == 0
    assert out.stat().st_size < 60_000
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("RGB"), int).reshape(-1, 3)
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=1)
    for color in [(31, 119, 180), (255, 127, 14), (44, 160, 44), (255, 255, 255)]:
        assert np.abs(pixels - color).max(axis=1).min() <= 8


def test_runs_from_data_sets_are_drawn_over_updates(make_run, tmp_path, monkeypatch):
    """Their env steps stay 0, and no episode of their own ends."""
    run, drawn = tmp_path / "run", []
    make_run("run", total_updates=30)
    rows = [{"learner_steps": n, "env_steps": 0, "frames": 0, "evaluate/return": 2.0 * n} for n in (10, 20, 30)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(plot, "draw", lambda groups, x, y, image_format: drawn.append((groups, x, y)) or b"")
    assert plot.main(["plot.py", str(run), "--out", str(tmp_path / "curve.png")]) == 0
    ((((curve,),), x, y),) = drawn
    assert (x, y, curve.x.tolist(), curve.y.tolist()) == ("updates", "evaluate/return", [10, 20, 30], [20, 40, 60])


def test_an_axis_on_which_nothing_moves_is_refused(make_run, tmp_path, capsys):
    make_run("run", total_updates=30)
    row = {"learner_steps": 10, "env_steps": 0, "frames": 0, "evaluate/return": 2.0}
    (tmp_path / "run/metrics.jsonl").write_text(json.dumps(row) + "\n")
    command = ["plot.py", str(tmp_path / "run"), "--out", str(tmp_path / "curve.png"), "--y", "evaluate/return"]
    assert plot.main([*command, "--x", "env_steps"]) == 2
    assert "--x=env_steps: it is 0 throughout, as in runs from a data set. Use --x updates." in capsys.readouterr().err
    assert not (tmp_path / "curve.png").exists()
    assert plot.main(command) == 0
    assert capsys.readouterr().out == f"Drew it into {tmp_path / 'curve.png'}.\n"


def test_runs_of_one_config_and_environment_are_one_group(make_run):
    runs = [make_run("a"), make_run("b"), make_run("c", name="other"), make_run("d", env_id="Pong-v5")]
    groups = curves.group_curves([curves.read_curve(run, "env_steps", "episode/return") for run in runs])
    assert [len(group) for group in groups] == [2, 1, 1]


def test_runs_are_averaged_where_all_have_values(make_run):
    runs = [make_run("a", steps=(100, 200, 300)), make_run("b", steps=(150, 400), slope=3.0)]
    grid, values = curves.average_curves([curves.read_curve(run, "env_steps", "episode/return") for run in runs])
    assert (grid[0], grid[-1]) == (150, 300)
    np.testing.assert_allclose(values, [grid, 3 * grid])


def test_runs_without_a_common_part_are_a_mistake(make_run, capsys):
    runs = [make_run("a", steps=(100, 200)), make_run("b", steps=(300, 400))]
    assert plot.main(["plot.py", *runs, "--out", "x.png"]) == 2
    assert "one ends at 200, another starts at 300" in capsys.readouterr().err


def test_titles_say_what_is_shared_and_labels_what_is_not(make_run):
    def titles(*runs):
        return plot._titles(
            curves.group_curves([curves.read_curve(run, "env_steps", "episode/return") for run in runs])
        )

    a, b = make_run("a"), make_run("b")
    other, pong = make_run("c", name="other"), make_run("d", env_id="Pong-v5")
    assert titles(a) == ("catch on Catch-v0", [""])
    assert titles(a, b) == ("catch on Catch-v0", ["mean of 2 runs (band: min to max)"])
    assert titles(a, b, other) == ("Catch-v0", ["catch, mean of 2 runs (band: min to max)", "other"])
    assert titles(a, pong) == ("catch", ["Catch-v0", "Pong-v5"])
    assert titles(other, pong) == ("", ["other on Catch-v0", "catch on Pong-v5"])


def test_wall_time_is_in_hours_from_an_hour_on(make_run):
    curve = curves.read_curve(make_run("a"), "wall", "episode/return")
    assert plot._wall_unit([[curve]]) == (3600.0, "training time (hours, from the first update of each start)")
    short = curves.read_curve(make_run("b", steps=(1, 2)), "wall", "episode/return")
    assert plot._wall_unit([[short]]) == (60.0, "training time (minutes, from the first update of each start)")


def test_wall_time_leaves_out_what_comes_before_the_first_update_of_each_start(tmp_path):
    def row(update, wall_s, **fields):
        rate = {"env_steps_per_second": 1.0}
        return {"learner_steps": update, "episode/return": update, **rate, "time/wall_s": wall_s, **fields}

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"name": "a", "env": {"id": "b"}, "log": {"episodes": 1}}))
    first = {"time/before_s": 0.0, "time/start": 0}
    again = {"time/before_s": 60.0, "time/start": 3}
    rows = [row(1, 40.0, **first), row(2, 50.0), row(3, 60.0), row(4, 95.0, **again), row(5, 100.0)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert curves.read_curve(str(run), "wall", "episode/return").x.tolist() == [0, 10, 20, 20, 25]
    assert curves.read_curve(str(run), "updates", "time/wall_s").y.tolist() == [40, 50, 60, 95, 100]


@pytest.mark.parametrize(
    ("fields", "expected"), [({"time/first_update_s": 95.0}, [0, 50, 75, 80]), ({}, [0, 50, 50, 55])]
)
def test_wall_time_begins_at_the_first_update_of_a_start_and_not_at_its_first_row(tmp_path, fields, expected):
    """Rows of every 100 updates; the second start's first row comes 25 s after its first update."""
    again = {"time/before_s": 90.0, "time/start": 100, "time/wall_s": 120.0}
    first = {"time/before_s": 0.0, "time/start": 0, "time/wall_s": 40.0, "time/first_update_s": 40.0}
    rows = [first, {"time/wall_s": 90.0}, {**again, **fields}, {"time/wall_s": 125.0}]
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"name": "a", "env": {"id": "b"}, "log": {"episodes": 1}}))
    updates = [{"learner_steps": update, "env_steps_per_second": 1.0} for update in (1, 100, 200, 300)]
    lines = [json.dumps({**update, **row}) + "\n" for update, row in zip(updates, rows, strict=True)]
    (run / "metrics.jsonl").write_text("".join(lines))
    assert curves.read_curve(str(run), "wall", "learner_steps").x.tolist() == expected


def test_the_legend_is_outside_of_the_axes_and_the_start_inside(make_run, monkeypatch):
    figures, make = [], plot.plotting.make_figure
    monkeypatch.setattr(plot.plotting, "make_figure", lambda *size: figures.append(make(*size)) or figures[-1])
    groups = curves.group_curves(
        [curves.read_curve(make_run(name, name=name), "wall", "episode/return") for name in ("a", "b")]
    )
    plot.draw(groups, "wall", "episode/return", "png")
    (figure,) = figures
    (axes,), (legend,) = figure.axes, figure.legends
    assert axes.get_legend() is None
    assert legend.get_window_extent().y1 <= axes.get_window_extent().y0
    assert axes.get_xlim()[0] < 0


def test_a_row_still_being_written_is_left_out(make_run):
    curve = curves.read_curve(make_run("a", tail='{"env_steps": 4'), "env_steps", "episode/return")
    assert curve.x.tolist() == [100, 200, 300]


def test_rows_of_evaluations_are_a_curve_of_their_own(make_run):
    late = {"env_steps": 150, "frames": 600, "time/wall_s": 20000.0, "evaluate/return": 7.0}
    early = {"env_steps": 50, "frames": 200, "time/wall_s": 19000.0, "evaluate/return": 5.0}
    run = make_run("a", tail="".join(json.dumps(row) + "\n" for row in (late, early)))
    curve = curves.read_curve(run, "env_steps", "evaluate/return")
    assert (curve.x.tolist(), curve.y.tolist()) == ([50, 150], [5, 7])
    assert curves.read_curve(run, "env_steps", "episode/return").x.tolist() == [100, 200, 300]
    assert curves.read_curve(run, "env_steps", "frames").x.tolist() == [0, 50, 100, 150, 200, 300]
    assert plot._y_label([[curve]], "evaluate/return") == "return in evaluation (mean)"


def test_a_missing_metric_lists_those_that_are_there(make_run, capsys):
    assert plot.main(["plot.py", make_run("a"), "--out", "x.png", "--y", "episode/retrn"]) == 2
    error = capsys.readouterr().err
    assert "has no metric 'episode/retrn'; did you mean 'episode/return'?" in error
    assert "It has: env_steps, episode/return, frames, time/wall_s." in error
    assert error.count("\n") == 1


def test_other_mistakes_are_one_line_and_exit_code_2(make_run, tmp_path, capsys):
    run = make_run("a")
    broken = make_run("b", tail="{oops\n")
    for arguments, message in [
        ([str(tmp_path / "nowhere"), "--out", "x.png"], "is not the folder of a run: it has no config.json"),
        ([run], "required: --out"),
        ([run, "--out", "x"], "needs a suffix"),
        ([run, "--out", "x.docx"], "'docx' is not a format of images"),
        ([run, "--out", str(tmp_path / "nowhere" / "x.png")], "no such folder"),
        ([run, "--out", "x.png", "--x", "hours"], "invalid choice: 'hours'"),
        ([broken, "--out", "x.png"], "line 5 is not JSON"),
    ]:
        assert plot.main(["plot.py", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_says_so_where_matplotlib_is_missing(make_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plot.main(["plot.py", make_run("a"), "--out", "x.png"]) == 2
    assert capsys.readouterr().err.endswith("Plots need matplotlib: pip install matplotlib.\n")


def test_shows_where_runs_ended_over_a_value_of_their_configs(make_run, tmp_path):
    def run(agent, lag, slope):
        folder, name = f"{agent}-{lag}-{slope}", f"lag-{lag}"
        return make_run(folder, slope=slope, name=name, agent={"name": agent}, actors={"lag": lag})

    runs = [run("impala", 0, 1.0), run("impala", 0, 2.0), run("impala", 8, 0.5), run("ppo", 8, 3.0)]
    ending = curves.read_ending(runs[1], "actors.lag", "episode/return")
    assert ending == curves.Ending(agent="impala", env_id="Catch-v0", window=100, setting=0, y=600.0)
    out = tmp_path / "lag.png"
    assert plot.main(["plot.py", *runs, "--against", "actors.lag", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("RGB"), int).reshape(-1, 3)
    for color in [(31, 119, 180), (255, 127, 14)]:  # A line for each agent.
        assert np.abs(pixels - color).max(axis=1).min() <= 8


@pytest.mark.parametrize("key", ["actors.lags", "agent.name", "lag"])
def test_a_key_without_a_number_is_one_line(make_run, tmp_path, capsys, key):
    run = make_run("a", agent={"name": "impala"}, actors={"lag": 1})
    assert plot.main(["plot.py", run, "--against", key, "--out", str(tmp_path / "lag.png")]) == 2
    assert f"--against={key}: the config of {run} has no number under this key." in capsys.readouterr().err


@pytest.fixture
def published(tmp_path):
    """Writes another program's curve: 2, 3, 4 at 100, 200, 300 env steps, and one of twice that."""
    for scale in (1, 2):
        rows = [f"{100 * n},{scale * (n + 1)},7" for n in (1, 2, 3)]
        (tmp_path / f"peer_{scale}.csv").write_text("\n".join(["env_steps,mean_return,episodes", *rows]))
    return f"Peer={tmp_path}/peer_1.csv,{tmp_path}/peer_2.csv"


def test_curves_of_another_program_are_drawn_beside(make_run, tmp_path, monkeypatch, published):
    drawn = []
    monkeypatch.setattr(plot, "draw", lambda groups, x, y, image_format: drawn.extend(groups) or b"")
    runs = [make_run("a"), make_run("b")]
    assert plot.main(["plot.py", *runs, "--out", str(tmp_path / "curve.png"), "--beside", published]) == 0
    assert [[curve.name for curve in group] for group in drawn] == [["catch"] * 2, ["Peer"] * 2]
    grid, values = curves.average_curves(drawn[1])
    assert (grid[0], grid[-1]) == (100, 300)
    assert values.mean(axis=0)[[0, -1]].tolist() == [3, 6]


def test_blank_lines_of_another_programs_curve_are_skipped(make_run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "draw", lambda groups, x, y, image_format: drawn.extend(groups) or b"")
    (tmp_path / "peer.csv").write_text("a,b\n100,2\n\n200,3\n,\n\n")
    beside = f"Peer={tmp_path}/peer.csv"
    assert plot.main(["plot.py", make_run("a"), "--out", str(tmp_path / "curve.png"), "--beside", beside]) == 0
    assert [(curve.x.tolist(), curve.y.tolist()) for curve in drawn[1]] == [([100, 200], [2, 3])]


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("Peer", "--beside=Peer: expected NAME=FILE.csv, or NAME=FILE.csv,FILE.csv,..."),
        ("Peer=none.csv", "none.csv cannot be read: No such file or directory."),
        ("Peer=word.csv", "word.csv is not such a file; expected a line of names, then lines of two numbers or more"),
        ("Peer=back.csv", "back.csv is not such a file; expected a line of names"),
        ("Peer=names.csv", "names.csv is not such a file; expected a line of names"),
        ("Peer=empty.csv", "empty.csv is not such a file; expected a line of names"),
        ("Peer=long.csv", "long.csv is not such a file; expected a line of names"),
        ("catch=names.csv", "the runs' config has this name too. Choose another."),
    ],
)
def test_what_is_no_curve_of_another_program_is_refused(make_run, tmp_path, monkeypatch, capsys, beside, said):
    monkeypatch.chdir(tmp_path)
    files = {
        "word": "a,b\n1,x",
        "back": "a,b\n2,1\n1,1",
        "names": "a,b",
        "empty": "",
        "long": f"a,b\n1,{'1' * 200_000}",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    assert plot.main(["plot.py", make_run("a"), "--out", "curve.png", "--beside", beside]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "curve.png").exists()


@pytest.mark.parametrize("flags", [["--x", "wall"], ["--against", "log.episodes"]])
def test_another_programs_curves_are_over_env_steps_alone(make_run, tmp_path, capsys, published, flags):
    command = ["plot.py", make_run("a"), "--out", str(tmp_path / "curve.png"), "--beside", published, *flags]
    assert plot.main(command) == 2
    assert "--beside: its curves are over env steps" in capsys.readouterr().err


def test_another_programs_curves_are_of_one_environment(make_run, tmp_path, capsys, published):
    runs = [make_run("a"), make_run("d", env_id="Pong-v5")]
    assert plot.main(["plot.py", *runs, "--out", str(tmp_path / "curve.png"), "--beside", published]) == 2
    assert "the runs are of 2 environments, Catch-v0, Pong-v5. Draw one at a time." in capsys.readouterr().err
