"""A run that is on disk: its config, and an agent as one of its checkpoints has it, on one device."""

from collections.abc import Mapping
import dataclasses

from etils import epath
import jax
import ml_collections

from podrl import inspection
from podrl.assembly import assemble_agent, resolve
from podrl.checkpoint_arrays import restore_actor
from podrl.checkpoint_facts import read_facts
from podrl.config import Config, ConfigError
from podrl.config_dict import with_defaults
from podrl.envs import Source
from podrl.types import Agent, Counters, EnvSpec, PyTree
from podrl.workdir import read_config_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedRun:
    """What is needed to act as the run's agent did.

    Attributes:
        config: of the run.
        agent: the algorithm.
        spec: of the environment that it was trained in.
        source: makes environments.
        params: what `Agent.act` takes, on one device.
        counters: of the checkpoint.
    """

    config: Config
    agent: Agent
    spec: EnvSpec
    source: Source
    params: PyTree
    counters: Counters


def open_run(workdir: str, step: int | None, device: jax.Device) -> SavedRun:
    """Reads a run, which may be under way, and changes nothing in its folder.

    Args:
        workdir: its folder.
        step: the update whose checkpoint to take; None for the newest.
        device: where its parameters go, whatever the topology that it was trained on.

    Raises:
        ConfigError: if there is no run, or no such checkpoint; lists those that there are.
        CheckpointError: if it is damaged.
    """
    step = inspection.choose_step(inspection.open_run(workdir), step)
    config = read_config(workdir, step)
    agent, spec, source = assemble_agent(config)
    if spec.env_before:
        config = read_config(workdir, step, spec.env_before)
        agent, spec, source = assemble_agent(config)
    sharding = jax.sharding.SingleDeviceSharding(device)
    shape = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(agent.init, jax.random.key(0)),
    )
    state, counters = restore_actor(workdir, shape, step)
    return SavedRun(
        config=config, agent=agent, spec=spec, source=source, params=agent.actor_params(state), counters=counters
    )


def read_config(workdir: str, step: int, env_before: Mapping[str, str] | None = None) -> Config:
    """The config that a checkpoint was made with; of one that does not hold it, the run's.

    Args:
        workdir: the run's.
        step: of the checkpoint.
        env_before: keys of `env` for a run that was made before there were any; see `podrl.types.EnvSpec`.

    Raises:
        ConfigError: if it cannot be read.
        CheckpointError: if the checkpoint is damaged, or cannot be read.
    """
    path = epath.Path(workdir) / "config.json"
    values = read_facts(workdir, step).config or read_config_file(path.parent)
    try:
        return resolve(ml_collections.ConfigDict(with_defaults(values, env_before=env_before)))
    except ConfigError as error:
        raise ConfigError(f"{path} cannot be read by this version of podrl: {error}") from None
