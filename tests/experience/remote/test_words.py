"""Environment workers and the worker processes of one pool are two things, and whatever names one names the other."""

from podrl.commands.env_worker import USAGE
from podrl.config.config import EnvConfig
from podrl.config.remote import RemoteConfig
from podrl.launch.options import FLAGS


def entry(section, name):
    """What the docs of a config section say of a key."""
    return section.__doc__.partition(f"\n        {name}: ")[2].partition(":\n")[0].split("\n        worker_")[0]


def test_each_help_names_the_other():
    assert "Environment workers, `remote.env_workers`, are something else" in entry(EnvConfig, "workers")
    assert "worker\n            processes of `env.workers` are something else" in entry(RemoteConfig, "env_workers")
    assert "--config.env.workers are something else" in USAGE
    assert "Not the worker processes of --config.env.workers" in str(FLAGS["env_workers"])
