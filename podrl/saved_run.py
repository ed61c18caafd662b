"""A run on disk: its config, and the agent of one of its checkpoints, on one device."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import os
from typing import Any

from etils import epath
import jax
import ml_collections

from podrl.agents.parts.interface import Agent
from podrl.assembly import assemble_agent, resolve
from podrl.config.config import Config, ConfigError, check
from podrl.config.config_dict import with_defaults
from podrl.config.user_modules import add_folder
from podrl.envs.settings import check_settings
from podrl.envs.source import EvaluationProtocol, Source, evaluation_protocol
from podrl.mistakes import NoModuleError
from podrl.runs import inspection
from podrl.runs.checkpoint_arrays import restore_actor
from podrl.runs.checkpoint_facts import read_facts
from podrl.runs.records import CONFIG_FOLDERS
from podrl.runs.workdir import read_config_file
from podrl.types import Counters, EnvSpec, LearnerState, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedRun:
    """What is needed to act as the run's agent did.

    Attributes:
        config: the run's config.
        agent: the algorithm.
        spec: spec of the environment that the agent was trained in.
        source: makes environments.
        params: parameters for `Agent.act`, on one device.
        counters: the checkpoint's counters.
    """

    config: Config
    agent: Agent
    spec: EnvSpec
    source: Source
    params: PyTree
    counters: Counters


def open_run(workdir: str, step: int | None, device: jax.Device) -> SavedRun:
    """Reads a run, which may be in progress, and changes nothing in its folder.

    The user's modules that its config names are looked for beside its config file too, if that folder is still there.

    Args:
        workdir: the run's folder.
        step: the update whose checkpoint to take; None for the newest.
        device: device for the parameters, whatever the topology of the training was.

    Raises:
        ConfigError: if there is no run, or no such checkpoint; the message lists those that exist.
        CheckpointError: if it is damaged, or was deleted meanwhile by its run.
    """
    folder = inspection.find_run(workdir)
    made: dict[str, tuple[Config, Agent, EnvSpec, Source]] = {}

    def read(chosen: int) -> SavedRun:
        values = _find_values(workdir, chosen)
        text = json.dumps(values, sort_keys=True)
        if text not in made:  # So the next checkpoint is read at once, before it is deleted too.
            made[text] = _assemble(folder / "config.json", values)
        config, agent, spec, source = made[text]
        shape = _place(jax.eval_shape(agent.init, jax.random.key(0)), device)
        state, counters = restore_actor(workdir, shape, chosen)
        return SavedRun(
            config=config, agent=agent, spec=spec, source=source, params=agent.actor_params(state), counters=counters
        )

    return inspection.read_checkpoint(folder, step, read)


def limited_protocol(saved: SavedRun, max_episode_steps: int, env_number: int) -> EvaluationProtocol:
    """Returns how a run's environment is played; `--max_episode_steps` applies if it has no other limit.

    Args:
        saved: The run.
        max_episode_steps: The flag; 0 if it is not given.
        env_number: Number of the environment that is made to find that limit.

    Raises:
        ConfigError: If the flag has no effect, or the environment cannot be played by its own protocol.
    """
    env = saved.config.env
    if max_episode_steps:
        env = dataclasses.replace(env, max_episode_steps=max_episode_steps)
        check_settings(saved.source, env)
    protocol = evaluation_protocol(saved.source, env, env_number=env_number)
    check(
        max_episode_steps in (0, protocol.max_episode_steps),
        f"--max_episode_steps={max_episode_steps} has no effect: {env.id} has a time limit of its own, of "
        f"{protocol.max_episode_steps} steps, and evaluations keep to it. Leave the flag out.",
    )
    return protocol


def read_config(workdir: str, step: int) -> Config:
    """Returns the config of a checkpoint, or the run's if the checkpoint does not hold it.

    Raises:
        ConfigError: if it cannot be read.
        CheckpointError: if the checkpoint is damaged, or cannot be read.
    """
    path = epath.Path(workdir) / "config.json"
    with _explained(path):
        return _make_config(path, _find_values(workdir, step))


def _find_values(workdir: str, step: int) -> Mapping[str, Any]:
    """Returns a checkpoint's config as JSON holds it, and makes the modules beside its file importable."""
    facts = read_facts(workdir, step)
    for folder in (facts.manifest or {}).get(CONFIG_FOLDERS, ()):
        if os.path.isdir(folder):
            add_folder(folder)
    return facts.config or read_config_file(epath.Path(workdir))


@contextlib.contextmanager
def _explained(path: epath.Path) -> Iterator[None]:
    """Says what to do where a config, that at `path`, names a module that is not found."""
    try:
        yield
    except NoModuleError as error:
        raise ConfigError(
            f"{path} cannot be read: {error} Run this in the folder of your module, or with that on PYTHONPATH."
        ) from None


def _assemble(path: epath.Path, values: Mapping[str, Any]) -> tuple[Config, Agent, EnvSpec, Source]:
    """Assembles what a config asks for; defaults of `env` are those of the time when it was written."""
    with _explained(path):
        config = _make_config(path, values)
        agent, spec, source = assemble_agent(config)
        if spec.env_before:
            config = _make_config(path, values, spec.env_before)
            agent, spec, source = assemble_agent(config)
    return config, agent, spec, source


def _place(shape: LearnerState, device: jax.Device) -> LearnerState:
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shape)


def _make_config(path: epath.Path, values: Mapping[str, Any], env_before: Mapping[str, str] | None = None) -> Config:
    """Makes a config from its values; `env_before` is that of `podrl.types.EnvSpec`, for runs older than such keys.

    Raises:
        NoModuleError: if it names a module that is not found.
        ConfigError: if this podrl cannot read it; the message names `path`.
    """
    try:
        return resolve(ml_collections.ConfigDict(with_defaults(values, env_before=env_before)))
    except NoModuleError:
        raise
    except ConfigError as error:
        raise ConfigError(f"{path} cannot be read by this version of podrl: {error}") from None
