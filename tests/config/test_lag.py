"""Which lags a config may ask for, and what its key was called before."""

import json
import re

import pytest

from podrl.agents.parts.loading import load_agent
from podrl.assembly import resolve
from podrl.config.commandline import load_config
from podrl.config.config import ConfigError
from podrl.config.config_dict import differences, to_dict, with_defaults
from podrl.config.overrides import override
from podrl.runs.workdir import make_workdir
from tests.short_runs import anakin_config, make_config


@pytest.mark.parametrize(
    ("make", "overrides", "said"),
    [
        (make_config, {"actors__lag": -1}, "actors.lag=-1 must lie in [0, 1024]."),
        (make_config, {"actors__lag": 4, "determinism": "free"}, "by actors.max_lag=2. Set that instead of actors.lag"),
        (make_config, {"actors__lag": 0, "determinism": "free"}, "by actors.max_lag=2. Set that instead of actors.lag"),
        (anakin_config, {"actors__lag": 2}, "actors.lag=2 has no meaning with topology.placement='anakin'"),
        (
            make_config,
            {"actors__lag": 4, "checkpoint__every_updates": 4},
            "actors.lag=4 would never be reached: the lag grows from 0 after every boundary, and there is one every "
            "checkpoint.every_updates=4 updates. Use more than 4 there, or 0 for no boundaries.",
        ),
    ],
)
def test_a_lag_that_a_run_would_not_have_is_refused(make, overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make(**overrides)


@pytest.mark.parametrize(
    ("make", "overrides"),
    [
        (make_config, {"actors__lag": 4, "checkpoint__every_updates": 5}),
        (make_config, {"actors__lag": 1024, "checkpoint__every_updates": 0}),
        (make_config, {"checkpoint__every_updates": 1}),  # The default is refused nowhere.
        (anakin_config, {}),
        (anakin_config, {"actors__lag": 0, "determinism": "free"}),
        (make_config, {"determinism": "free", "actors__max_lag": 0}),
    ],
)
def test_others_are_not(make, overrides):
    make(**overrides)


NOW = "Unknown config key 'actors.synchronous', which is 'actors.lag' now: 0 for what was true, 1 for what was false."


def test_the_command_line_is_told_the_new_name():
    with pytest.raises(ConfigError, match=re.escape(NOW)):
        override(load_config("configs/impala_catch.py"), ["--config.actors.synchronous=True"])


def test_a_config_file_is_told_the_new_name(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from configs import impala_catch\n\n\ndef get_config():\n    config = impala_catch.get_config()\n"
        "    config.actors.synchronous = True\n    return config\n"
    )
    with pytest.raises(ConfigError, match=re.escape(NOW)):
        resolve(load_config(str(path)))


@pytest.mark.parametrize(
    ("make", "synchronous", "overrides"),
    [
        (make_config, True, {"actors__lag": 0}),
        (make_config, False, {}),
        (make_config, True, {"determinism": "free", "actors__max_lag": 0}),
        (make_config, False, {"determinism": "free", "actors__max_lag": 3}),
        (anakin_config, True, {"actors__lag": 0}),
    ],
)
def test_a_config_that_an_earlier_podrl_wrote_means_the_same(make, synchronous, overrides, tmp_path):
    """So its run is resumed without --accept_changes."""
    config = make(**overrides)
    written = json.loads(json.dumps(to_dict(config)))
    del written["actors"]["lag"]
    written["actors"]["synchronous"] = synchronous
    if config.actors.max_lag == 0:
        written["actors"]["max_lag"] = 2  # It was at least 1, and not heeded.
    assert differences(with_defaults(written, load_agent("impala").AgentConfig), to_dict(config)) == {}
    (tmp_path / "config.json").write_text(json.dumps(written))
    make_workdir(config, str(tmp_path))
    other = make_config(actors__lag=4, checkpoint__every_updates=0)
    with pytest.raises(ConfigError, match="holds a run of another config"):
        make_workdir(other, str(tmp_path))
