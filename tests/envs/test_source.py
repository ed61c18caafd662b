import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.envs.pools.checks import check_timestep
from podrl.envs.source import load_source
from podrl.types import Timestep


def test_bare_and_dotted_names_load():
    assert load_source("envpool").make_spec.__module__ == "podrl.envs.sources.envpool"
    assert load_source("tests.envs.scripted").make_spec.__module__ == "tests.envs.scripted"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("envpol", "env.source='envpol' is not known; did you mean 'envpool'[?] Available: ale, .*envpool"),
        ("seeds", "env.source='seeds' is not known"),
        ("", "env.source='' is not known"),
        ("my_package.my_source", "env.source='my_package.my_source' cannot be imported.*Available: ale, .*envpool"),
        ("tests.envs.nowhere", "env.source='tests.envs.nowhere' cannot be imported"),
        (".envpool", "cannot be imported"),
        ("podrl.config.config", "it has no SOURCE, a podrl.envs.source.Source of its"),
    ],
)
def test_unknown_source_is_one_clear_error(name, message):
    with pytest.raises(ConfigError, match=message):
        load_source(name)


def test_missing_dependency_of_a_source_is_not_called_an_unknown_source(tmp_path, monkeypatch):
    package = tmp_path / "needy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "source.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)

    said = "env.source='needy.source' needs a module that is not installed: No module named 'a_package_that_nobody_has'"
    with pytest.raises(ConfigError, match=said):
        load_source("needy.source")
    (package / "broken.py").write_text("raise RuntimeError('no display')\n")
    with pytest.raises(ConfigError, match=r"'needy\.broken' failed while it was imported: RuntimeError: no display"):
        load_source("needy.broken")


def test_importing_podrl_envs_does_not_import_envpool():
    program = "import sys, podrl.envs.source, podrl.envs.seeds; sys.exit('envpool' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_sources_are_quiet():
    program = (
        "from podrl.config.config import EnvConfig\n"
        "from podrl.envs.source import load_source\n"
        "source, config = load_source('envpool'), EnvConfig(id='CartPole-v1')\n"
        "source.make_spec(config)\n"
        "source.make_pool(config, seeds=[1], num_threads=1).reset()\n"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("", "")


EXPECTED = Timestep(
    observation={"image": jax.ShapeDtypeStruct((2, 3), np.uint8)},
    reward=jax.ShapeDtypeStruct((2,), np.float32),
    discount=jax.ShapeDtypeStruct((2,), np.float32),
    first=jax.ShapeDtypeStruct((2,), bool),
)


def as_expected():
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), EXPECTED)


def test_a_timestep_of_the_right_shapes_and_dtypes_passes():
    check_timestep(as_expected(), EXPECTED, pool=None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reward": np.zeros(2)}, r"returned reward as float64\[2\]; expected float32\[2\]\."),
        ({"first": np.zeros(3, bool)}, r"returned first as bool\[3\]; expected bool\[2\]\."),
        ({"discount": 1.0}, r"returned discount as float; expected float32\[2\]\."),
        ({"observation": {}}, r"returned observation/image as nothing; expected uint8\[2, 3\]\."),
        ({"observation": np.zeros(2)}, r"returned observation/image as nothing; expected uint8\[2, 3\]\."),
        (
            {"observation": {"image": np.zeros((2, 3), np.uint8), "speed": np.zeros(2)}},
            r"returned observation/speed as float64\[2\]; expected nothing\.",
        ),
    ],
)
def test_another_is_refused_with_the_array_that_differs(fields, message):
    with pytest.raises(ValueError, match=message):
        check_timestep(dataclasses.replace(as_expected(), **fields), EXPECTED, pool=None)


MISSING = {
    "package": "sys.modules['envpool'] = None\n",
    "assets": "import os; os.environ['ENVPOOL_ASSETS_PATH'] = '/nowhere'\n",
}


@pytest.mark.parametrize("missing", MISSING)
def test_where_envpool_cannot_be_used_the_error_names_the_source_that_plays_atari_without_it(missing):
    program = (
        f"import sys\n{MISSING[missing]}"
        "from podrl.config.config import ConfigError\n"
        "from podrl.envs.source import load_source\n"
        "try:\n    load_source('envpool')\nexcept ConfigError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    (line,) = run.stdout.splitlines()
    assert line.startswith("env.source='envpool' needs EnvPool and its assets: pip install ")
    assert line.endswith("pip install -e '.[ale]' and --config.env.source=ale.")


def test_ale_plays_without_envpool():
    pytest.importorskip("ale_py")
    program = (
        "import sys\nsys.modules['envpool'] = None\n"
        "from podrl.config.config import EnvConfig\n"
        "from podrl.envs.source import load_source\n"
        "pool = load_source('ale').make_pool(EnvConfig(source='ale', id='Pong-v5'), seeds=[1], num_threads=1)\n"
        "print(pool.reset().observation.shape)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout == "(1, 84, 84, 1)\n"
