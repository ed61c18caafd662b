import dataclasses
import io
import math
import re
import sys

from absl import flags
from absl import logging as absl_logging
import pytest
from rich.console import Console
from rich.text import Text

from podrl.telemetry.display import Display
from podrl.telemetry.log_lines import configure_logging
from podrl.telemetry.summary import Score, Summary
from podrl.types import Counters

ROW = {
    "learner_steps": 120,
    "env_steps": 153_600,
    "frames": 614_400,
    "env_steps_per_second": 1130.4,
    "frames_per_second": 4520.2,
    "episode/return": 1.234,
    "episode/return_max": 4.0,
    "episode/length": 812.4,
    "episode/count": 412,
    "lag/mean": 1.0,
    "lag/max": 1.0,
    "time/wall_s": 10.0,
    "time/learner/learn": 0.71,
    "time/learner/wait_rollouts": 0.22,
    "time/learner/publish": 0.03,
    "time/learner/other": 0.04,
    "time/actors/env": 0.64,
    "time/actors/act": 0.36,
}
SUMMARY = Summary(
    outcome="finished",
    counters=Counters(learner_steps=240, env_steps=307_200, frames=1_228_800),
    wall_s=9060.0,
    env_steps_per_second=1130.4,
    frames_per_second=4520.2,
    episode_return=1.234,
    episodes=100,
)
WORKDIR = "/runs/[bold]x[/bold]"
CURSOR_MOVES = re.compile(r"\x1b\[[?0-9]*[A-KhlJ]")


class Clock:
    """Seconds that only a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _display(file, clock, **kwargs):
    console = Console(file=file, soft_wrap=True, highlight=False, **kwargs)
    return Display("impala", "Pong-v5", 10_240_000, WORKDIR, console, clock=clock)


def _last_panel(file):
    """Its lines."""
    panels = Text.from_ansi(CURSOR_MOVES.sub("", file.getvalue())).plain
    return panels[panels.rindex("\u256d") :].splitlines()


def _after(row, updates):
    """The row some updates later, in proportion."""
    scale = (row["learner_steps"] + updates) / row["learner_steps"]
    return row | {key: round(row[key] * scale) for key in ("learner_steps", "env_steps", "frames", "time/wall_s")}


class TestPlain:
    def test_one_line_a_row_with_all_fields_and_no_ansi(self):
        file, clock = io.StringIO(), Clock()
        with _display(file, clock, width=40) as display:
            display.update(ROW)
            clock.now = 17.0  # The row is shown when the next rollouts come; its own clock is what counts.
            display.update(_after(ROW, 120))
        first, second = file.getvalue().splitlines()
        assert first == (
            "update 120  env_steps 153,600 (1.5%)  frames 614,400  1,130 steps/s  4,520 frames/s  return 1.23  lag 1"
            "  learner: learn 71% wait_rollouts 22% other 4%  actors: env 64% act 36%  eta -"
        )
        assert second.startswith("update 240  env_steps 307,200 (3.0%)")
        assert second.endswith("eta 10 min 47 s")  # (10,240,000 - 307,200) / (153,600 / 10 s)
        assert "\x1b" not in file.getvalue()

    def test_a_pipe_that_is_to_have_colors_has_no_panel(self, monkeypatch, capsys):
        for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):  # As the kernel of a notebook sets them.
            monkeypatch.setenv(name, "1")
        monkeypatch.setenv("TERM", "xterm-color")
        with Display("catch", "Catch-v0", 1_000_000, "runs/catch") as display:
            display.phase("compiling")
            display.update(ROW)
        printed = capsys.readouterr().out
        assert "env_steps 153,600" in printed
        assert not re.search(r"\x1b\[[0-9;?]*[A-Zhl]", printed)  # Nothing moves the cursor.

    def test_rows_in_between_are_held_back_but_the_first_and_the_last_are_shown(self):
        file, clock = io.StringIO(), Clock()
        with _display(file, clock) as display:
            for i in range(8):
                clock.now = float(i)
                display.update(_after(ROW, i))
        updates = [int(line.split()[1]) for line in file.getvalue().splitlines()]
        assert updates == [120, 125, 127]

    def test_what_is_not_known_is_a_dash(self):
        file = io.StringIO()
        row = {key: ROW[key] for key in ("learner_steps", "env_steps", "frames")}
        with _display(file, Clock()) as display:
            display.update(row | {"env_steps_per_second": math.nan, "frames_per_second": None})
        assert "  - steps/s  - frames/s  return -  lag -  eta -" in file.getvalue()

    def test_phases_say_when_they_begin_and_how_long_they_took(self):
        file, clock = io.StringIO(), Clock()
        with _display(file, clock) as display:
            display.phase("compiling")
            clock.now = 12.3
            display.update(ROW)
        assert file.getvalue().splitlines()[:2] == ["compiling ...", "compiling: 12.3 s"]

    def test_a_phase_ends_with_the_first_update_that_has_ended_row_or_not(self):
        file, clock = io.StringIO(), Clock()
        with _display(file, clock) as display:
            display.phase("first update")
            for seconds, updates in enumerate((7, 7, 8, 9)):
                clock.now = float(seconds)
                display.advance(Counters(learner_steps=updates))
        assert file.getvalue().splitlines() == ["first update ...", "first update: 2.0 s"]

    def test_a_failed_phase_is_not_reported_as_done(self):
        file = io.StringIO()

        def fail():
            with _display(file, Clock()) as display:
                display.phase("compiling")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert file.getvalue().splitlines() == ["compiling ..."]

    def test_summary(self):
        file = io.StringIO()
        with _display(file, Clock()) as display:
            display.summary(SUMMARY)
        assert file.getvalue().splitlines() == [
            "finished: impala on Pong-v5",
            "  updates    240",
            "  env steps  307,200",
            "  frames     1,228,800",
            "  wall time  2 h 31 min",
            "  speed      1,130 steps/s, 4,520 frames/s (average, without warm-up)",
            "  return     1.23 (mean of the last 100 episodes)",
            "  workdir    /runs/[bold]x[/bold]",
            "  curves     /runs/[bold]x[/bold]/metrics.jsonl",
            "             tensorboard --logdir '/runs/[bold]x[/bold]'",
        ]

    def test_a_resumed_run_has_the_time_of_this_start_and_of_all(self):
        file = io.StringIO()
        with _display(file, Clock()) as display:
            display.summary(dataclasses.replace(SUMMARY, wall_s=30.0, before_s=90.0))
        assert "  wall time  30.0 s of this start, 2 min 0 s in all" in file.getvalue().splitlines()

    @pytest.mark.parametrize(
        ("score", "said"),
        [
            (Score(200, -148.75, 20, True), "-148.8 (greedy, mean of 20 episodes, update 200)"),
            (Score(150, 1.0, 4, False), "1.00 (sampled, mean of 4 episodes, update 150)"),
            (None, "not evaluated (evaluate.every_updates)"),
        ],
    )
    def test_the_summary_of_a_run_from_a_data_set_has_its_score(self, score, said):
        file = io.StringIO()
        with _display(file, Clock()) as display:
            display.summary(dataclasses.replace(SUMMARY, samples_per_second=1000.0, score=score))
        (line,) = [line for line in file.getvalue().splitlines() if line.startswith("  return ")]
        assert line.split(maxsplit=1)[1] == said

    def test_summary_of_a_run_too_short_to_have_numbers(self):
        file = io.StringIO()
        nothing = {"env_steps_per_second": math.nan, "frames_per_second": math.nan, "episode_return": None}
        with _display(file, Clock()) as display:
            display.summary(dataclasses.replace(SUMMARY, outcome="interrupted", **nothing))
        assert "speed" not in file.getvalue()
        assert "return     no episode has finished" in file.getvalue()


class TestPanel:
    @pytest.mark.parametrize("width", [80, 100, 200])
    def test_fits_and_shows_all(self, width):
        file = io.StringIO()
        with _display(file, Clock(), force_terminal=True, width=width) as display:
            display.update(ROW)
        assert "\x1b[36m" in file.getvalue()  # in colour
        lines = _last_panel(file)
        assert 8 <= len(lines) <= 9
        assert {len(line) for line in lines} == {min(width - 3, 100)}  # room for the echo of Ctrl-C
        shown = "\n".join(lines)
        for part in ("impala on Pong-v5", "1.5%", "154k / 10.2M", "1,130 steps/s", "614k", "4,520 frames/s", WORKDIR):
            assert part in shown
        for part in ("1.23 (max 4.00)", "length 812.4", "learn 71%  wait_rollouts 22%  other 4%  publish 3%"):
            assert part in shown

    def test_a_ring_shows_its_size_and_its_priorities(self):
        ring = {"replay/size": 782.0, "replay/age": 240.5, "replay/ratio": 1.5}
        spread = {"replay/priority_mean": 0.25, "replay/priority_max": 3.5}
        for row, rest in ((ring, "learned 1.50 times"), (ring | spread, "times  priority 0.25 (max 3.50)")):
            file = io.StringIO()
            with _display(file, Clock(), force_terminal=True, width=100) as display:
                display.update(ROW | row)
            (line,) = (line for line in _last_panel(file) if "in the ring" in line)
            assert "782 in the ring  age 240" in line
            assert rest in line

    @pytest.mark.parametrize("traffic", [{}, {"bytes_in": 12_345_678, "messages_in": 1234, "bytes_out": 80_000}])
    def test_what_crossed_the_wire_is_shown_with_environment_workers_only(self, traffic):
        file = io.StringIO()
        with _display(file, Clock(), force_terminal=True, width=100) as display:
            display.update(ROW | {f"remote/{name}": count for name, count in traffic.items()} | {"remote/refused": 3})
        lines = [line for line in _last_panel(file) if "workers" in line]
        expected = "workers    in 12.3 MB in 1,234 messages  out 0.1 MB in 0 messages  refused 3"
        assert [line.strip("\u2502 ") for line in lines] == [expected] * bool(traffic)

    @pytest.mark.parametrize(
        ("ended", "parts"),
        [
            (Counters(learner_steps=119, env_steps=152_320, frames=609_280), ("120", "154k / 10.2M", "614k")),
            (Counters(learner_steps=123, env_steps=157_440, frames=629_760), ("123", "157k / 10.2M", "630k")),
        ],
    )
    def test_it_counts_updates_that_have_no_row(self, ended, parts):
        file = io.StringIO()
        with _display(file, Clock(), force_terminal=True, width=100) as display:
            display.update(ROW)
            display.advance(ended)
        shown = "\n".join(_last_panel(file))
        for part in (*parts, "1,130 steps/s", "1.23 (max 4.00)"):
            assert part in shown

    @pytest.mark.parametrize("parsed", [False, True], ids=["before flags", "after flags"])
    def test_log_lines_come_out_above_it_and_whole(self, parsed, monkeypatch, restored_logging):
        file, stderr = io.StringIO(), Terminal()
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setattr(flags.FlagValues, "is_parsed", lambda self: parsed)
        restored_logging.python_handler.setStream(stderr)
        configure_logging(3)
        message = "saved [bold]checkpoint[/bold] " + "x" * 200
        with _display(file, Clock(), force_terminal=True, width=100) as display:
            display.phase("compiling")
            absl_logging.info(message)
            display.summary(SUMMARY)
        assert message in file.getvalue()
        assert message not in stderr.getvalue()
        assert sys.stderr is stderr
        assert restored_logging.python_handler.stream is stderr
