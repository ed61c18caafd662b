"""Errors are part of the interface: one clear line each, and exit code 2."""

import dataclasses
import importlib
import itertools
import re
import runpy
import subprocess
import sys

import pytest

from podrl.agents import impala, ppo
from podrl.agents.parts.loading import agent_defaults, agent_type
from podrl.assembly import resolve
from podrl.config import commandline
from tests.processes import ROOT

CATCH = str(ROOT / "configs/impala_catch.py")
launcher = importlib.import_module("podrl.commands.train")


def errors_of(capsys, *arguments):
    """The launcher's one line on standard error; its exit code must be 2."""
    assert launcher.main(["tools/tpu_launch.py", *arguments]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "podrl: error" in line]
    assert len(err) == 1
    return err[0]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.env.idd=Pong-v5", "Unknown config key 'env.idd'; did you mean 'env.id'?"),
        (
            "--config.learning_rate=1",
            "Unknown config key 'learning_rate'; did you mean 'agent.optimizer.learning_rate'?",
        ),
        ("--config.discount=1", "Unknown config key 'discount'. If it is the agent's, write agent.discount."),
        ("--config.agent.learning_rat=1", "did you mean 'agent.optimizer.learning_rate'?"),
        ("--config.agent.lernrate=1", "'agent.lernrate'; did you mean 'agent.optimizer.learning_rate'?"),
        ("--config.agent.unroll_length=1", "'agent.unroll_length'; did you mean 'actors.unroll_length'?"),
        ("--config.agent.discount.x=1", "agent.discount={'x': '1'} has type dict; expected float."),
        ("--config.agent.entropy_cost", "Config key 'agent.entropy_cost' needs a value"),
        ("--config.agent.entropy_cost=low", "agent.entropy_cost='low' is not a number."),
        ("--config.agent.entropy_cost=-1", "agent.entropy_cost=-1.0 must lie in [0, 1e6]."),
        (
            "--config.agent.learning_rate=1",
            "Unknown config key 'agent.learning_rate', which is 'agent.optimizer.learning_rate' now.",
        ),
        ("--config.agent.optimizer=adam", "is a section; set a key in it: --config.agent.optimizer.name=VALUE."),
        ("--config.env=3", "Config key 'env' is a section; set a key in it"),
        ("--config.seed", "Config key 'seed' needs a value: --config.seed=VALUE."),
        ("--config.seed=abc", "seed='abc' is not a number"),
        ("--config.agent.optimizer.learning_rate=fast", "agent.optimizer.learning_rate='fast' is not a number"),
        (
            "--config.env.id=Breakouts-v5",
            "env.id='Breakouts-v5' is not an EnvPool environment; did you mean 'Breakout-v5'?",
        ),
        ("--config.env.source=envpol", "env.source='envpol' is not known; did you mean 'envpool'?"),
        (
            "--config.agent.name=impalla",
            "agent.name='impalla' is not known; did you mean 'impala'? "
            "Available: bc, drq, impact, impala, iql, misa, ppo, pqn, r2d2, rainbow, rosmo, sac, td3, vmpo.",
        ),
        ("--config.agent.name=__main__", "agent.name='__main__'"),
        ("--config.network.encoder=resnt", "network.encoder='resnt' is not known; did you mean 'resnet'?"),
        ("--config.network.encoder=resnet", "network.encoder='resnet' needs images"),
        ("--config.actors.num_envs=-4", "actors.num_envs=-4 must lie in [1, 2**31]."),
        ("--config.actors.num_envs=9", "actors.num_envs=9 does not divide over 8 pools"),
        ("--config.total_env_steps=0", "total_env_steps=0 must lie in [1, 1e15]."),
        ("--config.topology.actor_devices_per_process=9", "topology.actor_devices_per_process=9 does not fit"),
        ("--profile=sometimes", "--profile=sometimes"),
        ("--workdirr=x", "Unknown flag --workdirr; did you mean 'workdir'?"),
        ("--init_from=", "--init_from= is empty. Name the folder of a run, or leave it out."),
        ("--join_timeout_s=0", "--join_timeout_s=0.0 must lie in [0.001, 1e6]."),
        ("--process_count=two", "--process_count=two"),
        ("stray", "Unexpected argument 'stray'."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(capsys, tmp_path, argument, message):
    workdir = tmp_path / "run"
    assert message in errors_of(capsys, "--config", CATCH, "--workdir", str(workdir), argument)
    assert not workdir.exists()


def test_a_missing_config_lists_what_there_is(capsys):
    line = errors_of(capsys, "--config", str(ROOT / "configs/impala_catsh.py"))
    assert "does not exist; did you mean" in line
    assert "impala_atari.py" in line


def test_podrls_own_configs_are_known_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert commandline.load_config("impala_catch").name == "impala_catch"
    line = errors_of(capsys, "--config", "impala_ctch")
    assert (
        f"no config 'impala_ctch', neither a file in {tmp_path} nor one of podrl's own; did you mean 'impala_catc"
        in line
    )
    assert "'impala_catch' or 'impala_" in line


def test_a_folder_in_the_working_folder_does_not_hide_podrls_own_config_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "impala_catch").mkdir()
    assert commandline.load_config("impala_catch").env.id == "Catch-v0"


def test_a_folder_is_no_config(capsys):
    line = errors_of(capsys, "--config", str(ROOT / "configs"))
    assert "configs is a folder. Give a file in it: " in line
    assert "impala_atari.py" in line


def test_no_config_at_all(capsys):
    assert "Add --config impala_atari, or" in errors_of(capsys)


def test_a_syntax_error_names_file_and_line(capsys, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("x = 1\ndef get_config(:\n")
    assert f"{file}, line 2: invalid syntax" in errors_of(capsys, "--config", str(file))


def test_a_config_that_raises_says_so(capsys, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import nothing_of_that_name\n")
    assert "failed: ModuleNotFoundError: No module named 'nothing_of_that_name'" in errors_of(
        capsys, "--config", str(file)
    )
    for code, said in (("0", "SystemExit: 0"), ("'no licence'", "SystemExit: no licence")):
        file.write_text(f"import sys\nsys.exit({code})\n")
        assert f"{file} failed: {said}" in errors_of(capsys, "--config", str(file))
    file.write_text("x = 1\n")
    assert "has no attribute 'get_config'" in errors_of(capsys, "--config", str(file))


def test_a_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    line = errors_of(capsys, "--config", CATCH, "--workdir", str(tmp_path / "file/run"))
    assert "cannot be written" in line


def test_a_folder_that_holds_another_run_is_not_overwritten(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 7}')
    error = errors_of(capsys, "--config", CATCH, "--workdir", str(tmp_path))
    assert "holds a run of another config: actors.env_threads was 0, is 1; " in error
    assert " more. Choose another folder, or add --accept_changes to resume with the new values." in error


def test_overrides_reach_the_config():
    argv = ["x", "--config.agent.optimizer.learning_rate=3e-4", "--config", CATCH, "--config.env.id=Pong-v5", "--smoke"]
    config = commandline.parse_command_line([*argv, "--config.network.hidden_sizes=(7,8)"]).config
    assert config.agent.optimizer.learning_rate == 3e-4
    assert config.env.id == "Pong-v5"
    assert config.network.hidden_sizes == (7, 8)
    assert config.smoke


@pytest.mark.parametrize(("flags", "profile"), [((), False), (("--profile",), True), (("--noprofile",), False)])
def test_a_profile_is_made_on_demand(flags, profile):
    assert commandline.parse_command_line(["x", "--config", CATCH, *flags]).profile is profile


def test_the_place_in_a_job_comes_from_flags_or_from_the_platform():
    place = ["--coordinator=node1:41234", "--process_count=2", "--process_index=1", "--join_timeout_s=60"]
    command = commandline.parse_command_line(["x", "--config", CATCH, *place])
    assert (command.coordinator, command.process_count, command.process_index) == ("node1:41234", 2, 1)
    assert command.join_timeout_s == 60
    command = commandline.parse_command_line(["x", "--config", CATCH])
    assert (command.coordinator, command.process_count, command.process_index) == (None, None, None)
    assert command.join_timeout_s == 300


def test_a_whole_number_may_be_written_as_people_write_it():
    argv = ["x", "--config", CATCH, "--config.total_env_steps=1e6", "--config.seed=1_0", "--config.actors.timeout_s=9"]
    config = commandline.parse_command_line(argv).config
    assert (config.total_env_steps, type(config.total_env_steps)) == (1_000_000, int)
    assert (config.seed, config.actors.timeout_s) == (10, 9.0)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("total_env_steps=1.5", "total_env_steps='1.5' is not a whole number."),
        ("agent.optimizer.learning_rate=nan", "agent.optimizer.learning_rate='nan' is not a number."),
    ],
)
def test_what_is_no_number_is_refused_by_its_key(capsys, override, complaint):
    assert complaint in errors_of(capsys, "--config", CATCH, f"--config.{override}")


def test_help_lists_the_values_of_a_config(capsys):
    with pytest.raises(SystemExit):
        commandline.parse_command_line(["x", "--config", CATCH, "--config.seed=7", "--help"])
    out = capsys.readouterr().out
    assert "\n  seed = 7\n" in out
    assert "\n  agent.name = 'impala'\n" in out


@pytest.mark.parametrize("columns", [80, 200])
def test_help_says_what_each_key_means_and_takes(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    argv = ["x", "--config", CATCH, "--help"]
    with pytest.raises(SystemExit):
        commandline.parse_command_line(argv, agent_defaults=agent_defaults, agent_type=agent_type)
    lines = capsys.readouterr().out.partition("Values of ")[2].splitlines()
    first = lines.index("  watchdog_s = 300.0")
    about = list(itertools.takewhile(lambda line: line.startswith("      "), lines[first + 1 :]))
    assert max(map(len, about)) < min(columns, 120)
    assert " ".join(line.strip() for line in about).startswith("Seconds without progress in any thread, ")
    assert " ".join(line.strip() for line in about).endswith("Takes [0.001, 1e6].")
    place = lines.index(next(line for line in lines if line.startswith("  agent.clip_rho = ")))
    assert lines[place + 1].startswith("      ")
    keys = [line for line in lines if re.match(r"  \S+ = ", line)]
    explained = [line for line, after in itertools.pairwise(lines) if line in keys and after.startswith("      ")]
    assert {line.split()[0] for line in keys} - {line.split()[0] for line in explained} <= {
        line.split()[0] for line in keys if line.startswith("  env.options.")
    }


def test_help_lists_the_agents_own_defaults_too(capsys):
    argv = ["x", "--config", CATCH, "--config.agent.discount=0.5", "--help"]
    with pytest.raises(SystemExit):
        commandline.parse_command_line(argv, agent_defaults=agent_defaults)
    out = capsys.readouterr().out
    for line in ("clip_rho = 1.0", "discount = '0.5'", "optimizer.learning_rate = 0.002", "optimizer.epsilon = 1e-05"):
        assert f"\n  agent.{line}\n" in out
    assert agent_defaults("unknown") == {}


def test_help_says_how_to_make_a_profile(capsys):
    with pytest.raises(SystemExit) as ended:
        commandline.parse_command_line(["x", "--help"])
    assert ended.value.code == 0
    assert "--[no]profile: Trace a few updates into WORKDIR/profile.\n" in capsys.readouterr().out


def test_an_unknown_option_is_answered_by_the_environment(capsys):
    line = errors_of(capsys, "--config", CATCH, "--config.env.options.hight=3")
    assert "env.options.hight is not an option of Catch-v0; did you mean 'height'?" in line


def test_a_batch_that_does_not_divide_leaves_no_folder(capsys, tmp_path):
    arguments = ("--config", CATCH, "--workdir", str(tmp_path / "run"))
    assert "agent.minibatches=5" in errors_of(capsys, *arguments, "--config.agent.minibatches=5")
    assert not (tmp_path / "run").exists()


def test_a_config_without_an_agent(capsys, tmp_path):
    file = tmp_path / "half.py"
    file.write_text("import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'seed': 1})\n")
    assert "agent.name=None must be the name of an agent" in errors_of(capsys, "--config", str(file))


@pytest.mark.parametrize("file", sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*_*.py")))
def test_a_config_file_states_of_its_agent_what_differs_from_the_agents_defaults(file):
    agent = commandline.load_config(str(ROOT / f"configs/{file}.py")).agent.to_dict()
    default = agent_defaults(agent["name"])
    optimizer = agent.pop("optimizer")
    repeated = [name for name, value in agent.items() if value == default[name]]
    repeated += [f"optimizer.{name}" for name, value in optimizer.items() if value == default["optimizer"][name]]
    assert repeated == ["name"]


def test_a_key_of_the_agent_that_a_file_leaves_out_is_typed_by_the_agent():
    typed = ["epochs=1e1", "epochs=3", "clip_decay=0", "clip_decay=1", "lambda_=1", "shuffle='environments'"]
    typed += ["optimizer.epsilon=1"]
    argv = ["x", "--config", str(ROOT / "configs/ppo_catch.py"), *(f"--config.agent.{each}" for each in typed)]
    agent = resolve(commandline.parse_command_line(argv).config).agent
    expected = ppo.AgentConfig(
        optimizer=dataclasses.replace(ppo.AgentConfig().optimizer, learning_rate=2e-3, epsilon=1.0),
        entropy_cost=0.003,
        epochs=3,
        clip_decay=True,
        lambda_=1.0,
        shuffle="environments",
    )
    assert agent == expected
    assert type(agent.lambda_) is type(agent.optimizer.epsilon) is float
    assert type(agent.shuffle) is str


def test_a_file_may_leave_even_the_agents_section_to_the_command_line(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from configs import common\ndef get_config():\n    config = common.make_config('own', 'Catch-v0', 1000)\n"
        "    del config['agent']\n    return config\n"
    )
    argv = ["x", "--config", str(file), "--config.agent.name=impala", "--config.agent.optimizer.name=adam"]
    agent = resolve(commandline.parse_command_line(argv).config).agent
    assert agent == impala.AgentConfig(optimizer=dataclasses.replace(impala.AgentConfig().optimizer, name="adam"))


def test_configs_and_the_command_line_do_not_import_jax():
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from podrl.config import commandline
for name in ("impala_atari", "impala_catch", "impala_lunarlander", "impala_pong"):
    commandline.load_config({str(ROOT)!r} + "/configs/" + name + ".py")
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_config_named_from_another_folder_is_answered_with_where_it_was_looked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = errors_of(capsys, "--config=configs/impala_catch.py")
    assert line.endswith(
        f"Config file configs/impala_catch.py does not exist in {tmp_path}. podrl's own is --config=impala_catch."
    )
    assert f"mine.py does not exist in {tmp_path}" in errors_of(capsys, "--config=mine.py")
    assert f"Config file {tmp_path}/mine.py does not exist" in errors_of(capsys, f"--config={tmp_path}/mine.py")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", ["podrl.train", "podrl.evaluation.play", "podrl.performance.benchmark.measure"])
def test_a_module_that_looks_like_a_command_says_what_to_run(module, capsys):
    with pytest.raises(SystemExit) as ending:
        runpy.run_module(module, run_name="__main__")
    assert ending.value.code == 2
    err = capsys.readouterr().err
    assert re.fullmatch(rf"podrl: error: python -m {module} is no command\. Run: python tools/\w+\.py --.*\n", err)
