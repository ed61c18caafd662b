"""`podrl.run` is the command line without one: the same run, the same messages."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import podrl
from podrl.config.commandline import load_config
from podrl.runtime.interruption import interruptible
from podrl.runtime.machine import jax_plugins
from tests.api.short import CATCH, ONE_DEVICE, train
from tests.processes import LIMIT_S, ROOT, environment, launch, read_rows

FLAGS = [f"--config.{key}={value}" for key, value in ONE_DEVICE.items()]


def test_two_runs_in_one_process_are_those_of_the_command_line(tmp_path):
    before = load_config(str(CATCH))
    outcomes = [train(tmp_path / name, before) for name in ("one", "two")]
    assert [outcome.finished for outcome in outcomes] == [True, True]
    assert [outcome.counters.env_steps for outcome in outcomes] == [80, 80]
    assert before == load_config(str(CATCH))  # A config is not written to.

    result = launch("--config", CATCH, "--workdir", "typed", "--config.total_env_steps=80", *FLAGS, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [read_rows(tmp_path / name)[-1] for name in ("one", "two", "typed")]
    assert len({row["fingerprint"] for row in rows}) == 1


def test_it_resumes_and_says_what_a_mistake_is(tmp_path):
    train(tmp_path / "run")
    assert train(tmp_path / "run", total_env_steps=80).counters.env_steps == 80
    with pytest.raises(podrl.ConfigError, match=r"total_env_steps.* 80 .*160|80 -> 160|accept_changes"):
        train(tmp_path / "run", total_env_steps=160)


@pytest.mark.parametrize(
    ("config", "overrides", "said"),
    [
        (CATCH, {"env.idd": "Catch-v0"}, "Unknown config key 'env.idd'; did you mean 'env.id'?"),
        (CATCH, {"seed": "one"}, "seed=\"'one'\" is not a whole number."),
        (CATCH, {"agent.discount": 2.0}, "agent.discount=2.0 must lie in [0, 1]."),
        (CATCH, {"seed": object()}, "overrides['seed'] is a object; expected a number"),
        (CATCH.with_name("absent.py"), {}, "absent.py does not exist"),
        ({"seed": 1}, {}, "config is a dict; expected what a config file's get_config() returns"),
    ],
)
def test_a_mistake_is_the_line_of_the_command_line(tmp_path, config, overrides, said):
    with pytest.raises(podrl.ConfigError) as caught:
        podrl.run(config, workdir=tmp_path / "run", overrides=overrides)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_values_of_python_arrive_as_they_are(tmp_path):
    values = {"env__options": {}, "network__hidden_sizes": (8, np.int64(8).item()), "seed": np.int64(3)}
    train(tmp_path, name="a 'quoted' name", network__separate_value=True, **values)
    found = podrl.load_policy(tmp_path).run.config
    assert (found.name, found.seed, found.network.hidden_sizes) == ("a 'quoted' name", 3, (8, 8))
    assert found.network.separate_value is True


def test_the_programs_logging_signals_and_streams_are_its_own_again(tmp_path):
    mine = logging.NullHandler()
    logging.getLogger().addHandler(mine)
    before = list(logging.getLogger().handlers), logging.getLogger().level, list(warnings.filters), sys.stdout
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os._exit
    train(tmp_path)
    assert (list(logging.getLogger().handlers), logging.getLogger().level, list(warnings.filters), sys.stdout) == before
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os._exit) == handlers
    logging.getLogger().removeHandler(mine)


TWICE = """
import sys
import podrl
for name in ("one", "two"):
    podrl.run({config!r}, workdir=name, overrides={{**{overrides}, "total_env_steps": 20}})
    sys.stderr.write("NEXT\\n")
import jax
print(jax.config.values["jax_platforms"])
"""


def test_a_second_run_says_what_the_first_does_once_and_nobody_looks_for_a_tpu(tmp_path):
    """JAX is imported before podrl can know that there is no TPU, for which it would look where libtpu is installed."""
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu/__init__.py").touch()
    code = TWICE.format(config=str(CATCH), overrides=ONE_DEVICE)
    env = environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "JAX_PLATFORMS": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert ended.returncode == 0, ended.stderr
    first, second, _ = ended.stderr.split("NEXT\n")
    assert "INFO:absl" not in ended.stderr
    lines = [line.partition("] ")[2] for line in second.splitlines() if line.startswith("[p0 ")]
    assert lines
    assert len(set(lines)) == len(lines)
    assert len(second.splitlines()) <= len(first.splitlines())
    assert "libtpu" not in ended.stderr
    assert ended.stdout.splitlines()[-1] == ("None" if jax_plugins() else "cpu")


def test_it_begins_with_the_weights_of_another_run(tmp_path, monkeypatch):
    train(tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    podrl.run(
        "impala_catch", workdir="second", init_from="first", overrides={**ONE_DEVICE, "seed": 2, "total_env_steps": 20}
    )
    manifest = json.loads((tmp_path / "second/manifest.json").read_text())
    assert manifest["init_from"]["run"] == str(tmp_path / "first")
    with pytest.raises(podrl.ConfigError, match=r"absent is not there"):
        podrl.run(CATCH, workdir=tmp_path / "third", init_from=tmp_path / "absent", overrides=ONE_DEVICE)


def test_it_runs_in_a_thread_which_can_take_no_signals(tmp_path):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(train(tmp_path)))
    thread.start()
    thread.join(LIMIT_S)
    assert outcomes[0].finished


def test_one_process_of_several_is_refused_unless_it_is_alone(tmp_path, monkeypatch):
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node1")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(podrl.ConfigError, match=r"podrl.run trains in one process, and this is one of 2"):
        train(tmp_path)
    outcome = podrl.run(CATCH, workdir=tmp_path, overrides={**ONE_DEVICE, "total_env_steps": 20}, alone=True)
    assert outcome.finished


LONG = """
import sys, time
import podrl
outcome = podrl.run({config!r}, workdir="run", overrides={{**{overrides}, "total_env_steps": 10**9}})
print("ENDED", outcome.finished, outcome.stop_code, outcome.counters.learner_steps, flush=True)
"""


def test_ctrl_c_saves_and_returns(tmp_path):
    code = LONG.format(config=str(CATCH), overrides=ONE_DEVICE)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for_rows(tmp_path / "run", process)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == 0
    words = said[said.index("ENDED") :].split()
    assert words[1:3] == ["False", "130"]
    assert read_rows(tmp_path / "run")[-1]["learner_steps"] == int(words[3])
    assert (tmp_path / "run/checkpoints" / words[3]).exists()


def test_a_second_ctrl_c_interrupts_the_program(monkeypatch):
    """On the command line it ends the process, which may be a notebook here."""
    with interruptible(ends_process=False) as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.code() == 130
        later_s = time.monotonic() + 5
        monkeypatch.setattr(time, "monotonic", lambda: later_s)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert interruption.code() == 130


def wait_for_rows(folder, process):
    end_s = time.monotonic() + LIMIT_S
    while not ((folder / "metrics.jsonl").exists() and read_rows(folder)):
        assert process.poll() is None
        assert time.monotonic() < end_s
        time.sleep(0.1)


STARTED = """
import os
import jax
jax.jit(lambda x: x + 1)(1.0)
import podrl
podrl.run({config!r}, workdir="run", overrides={{**{overrides}, "total_env_steps": 20}})
podrl.run({config!r}, workdir="again", overrides={{**{overrides}, "total_env_steps": 20}})
"""


@pytest.mark.slow
def test_a_jax_that_had_started_keeps_programs_and_is_told_of_in_one_line(tmp_path):
    """The flags that podrl sets come too late there; the second run has nothing to add."""
    env = environment() | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "NPROC": ""}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    code = "import podrl.runtime.xla_flags as flags; flags.available_cores = lambda: 1\n"
    code += STARTED.format(config=str(CATCH), overrides=ONE_DEVICE)
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert ended.returncode == 0, ended.stderr
    told = [line for line in ended.stderr.splitlines() if "JAX had started before podrl.run" in line]
    assert len(told) == 1
    assert "NPROC='2'" in told[0]
    assert list((tmp_path / "cache/podrl/compilation").iterdir())
