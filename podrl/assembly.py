"""From a config to the parts that it names, fitted together: environments, agent, devices and layouts.

Training, benchmarks and saved runs put a run together here and nowhere else, so that all of them mean the same by a
config. Nothing is compiled, and no environment is open.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
import dataclasses
import functools
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from podrl.agents.parts.interface import Agent
from podrl.agents.parts.loading import find_config_type, load_agent
from podrl.agents.parts.wrapping import wrap_agent
from podrl.config.config import Config, check_counts
from podrl.config.config_dict import as_values, from_config_dict
from podrl.envs.loading import load_environment
from podrl.envs.pools.seeds_in_graph import join_seeds
from podrl.envs.source import Source, make_environment
from podrl.evaluation.episodes import numbers_of_evaluation
from podrl.experience.layout import make_layout
from podrl.experience.remote.actor_programs import check_publishing
from podrl.experience.remote.actor_workers import check_actor_workers
from podrl.experience.remote.env_workers import check_workers
from podrl.experience.schedule import last_update, updates_ahead
from podrl.learning.fused import FusedLearner
from podrl.learning.learner import Learner
from podrl.learning.memory_check import check_experience_fits, check_state_fits
from podrl.learning.micro_batches import partition_of, resolve_partition
from podrl.learning.programs import FusedPrograms, Programs, make_learner
from podrl.learning.recorded import Recorded, make_offline_learner, make_recorded, open_recorded
from podrl.learning.replay import check_sequence_replay, num_groups
from podrl.learning.seeds import SeedsLearner, check_seeds
from podrl.learning.sharding import make_split_networks
from podrl.loops import anakin, offline, sebulba
from podrl.loops.interface import Assembly, Hooks, Outcome, SeedRun, Services
from podrl.loops.reward_rounds import with_rounds
from podrl.mesh import ShardingRule, Topology, make_topology
from podrl.networks.available import make_networks
from podrl.networks.interface import Networks
from podrl.networks.no_effect import check_has_effect
from podrl.runtime.job.job import ALONE, Job
from podrl.types import Counters, EnvSpec, PyTree, Snapshot


def resolve(config: ml_collections.ConfigDict) -> Config:
    """A config file's ConfigDict as frozen dataclasses, the agent's section by the agent's own.

    Raises:
        ConfigError: on an unknown, missing or wrongly typed key, or a value out of range.
    """
    return from_config_dict(config, find_config_type(as_values(config).get("agent")))


def assemble(
    config: Config,
    devices: Sequence[jax.Device] | None = None,
    *,
    watching: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
    network_before: Mapping[str, Any] = MappingProxyType({}),
) -> Assembly:
    """Puts the parts of a run together.

    Args:
        config: The run's config.
        devices: all devices of the job; by default `jax.devices()`, whose memory the run has to fit.
        watching: a context, told what happens in it, for as long as the environment is imported and tried.
        network_before: the section `network` that the run had before, if it resumes. Its keys may be without effect.

    Raises:
        ConfigError: if they do not fit, or a key of `network` has no effect.
    """
    with watching(f"data.path={config.data.path!r}, which it opens"):
        data = open_recorded(config.data.path)
    with watching(f"env.id={config.env.id!r} in its module, constructor, or first reset or step"):
        asked, source, spec = load_environment(config, jax.process_index())
    topology = make_topology(asked.topology, devices, acts=not asked.is_offline)
    check_seeds(asked, topology)
    if devices is None:  # Others stand for devices that are not here.
        check_experience_fits(asked, spec, topology)
    config = resolve_partition(asked, topology)
    layout = make_layout(config, topology)
    check_sequence_replay(config, layout, topology)
    recorded = None if data is None else make_recorded(config, data, spec, topology)
    check_has_effect(config.network, spec, network_before)
    agent, rules = make_split_agent(config, spec, topology.learner)
    check_publishing(config, agent)
    assembly = Assembly(
        asked=asked,
        config=config,
        source=source,
        spec=spec,
        topology=topology,
        layout=layout,
        agent=agent,
        rules=rules,
        learner=_make_learner(config, agent, source, spec, topology, rules, recorded),
        recorded=recorded,
    )
    if devices is None:
        check_workers(config, layout)
        check_actor_workers(config, layout)
        check_state_fits(config, spec, topology, assembly.state_shape, recorded)
    return assembly


def make_acting_agent(config: Config, spec: EnvSpec) -> Agent:
    """The agent of a run's config with its network whole, to act in a worker; `spec` is one environment's."""
    return make_wrapped_agent(config, make_networks(config.network, spec), spec)


def with_agent(assembly: Assembly, agent: Agent) -> Assembly:
    """The same run with another agent."""
    parts = (assembly.config, agent, assembly.source, assembly.spec, assembly.topology, assembly.rules)
    return dataclasses.replace(assembly, agent=agent, learner=_make_learner(*parts, assembly.recorded))


def _make_learner(
    config: Config,
    agent: Agent,
    source: Source,
    spec: EnvSpec,
    topology: Topology,
    rules: Sequence[ShardingRule],
    recorded: Recorded | None,
) -> Learner | FusedLearner | SeedsLearner:
    if recorded is not None:
        return make_offline_learner(config, agent, recorded, topology.learner, rules)
    if config.topology.placement != "anakin":
        return make_learner(config, agent, spec, topology.learner, rules)
    environment, num_seeds = make_environment(source, config.env), config.topology.seeds
    if num_seeds == 1:
        return FusedLearner(config, agent, environment, spec, topology, rules)
    single = FusedLearner(config, agent, join_seeds(environment), spec, topology, rules)
    return SeedsLearner(single, topology.learner, first_seed=config.seed, num_seeds=num_seeds)


def assemble_agent(config: Config) -> tuple[Agent, EnvSpec, Source]:
    """The agent with its network whole, to act on one device; the environment that it was made for, and its source.

    The run may be in progress.

    Raises:
        ConfigError: if they do not fit.
    """
    (number,) = numbers_of_evaluation(config, 1, beside_run=True)
    config, source, spec = load_environment(config, number)
    return make_wrapped_agent(config, make_networks(config.network, spec), spec), spec, source


def resume_at(assembly: Assembly, begun: Counters) -> Assembly:
    """The parts of a run that resumes at `begun`. Its schedules go by env steps, whatever the sizes of earlier updates.

    Raises:
        ConfigError: if it would take more updates than can be counted.
    """
    config = assembly.config
    check_counts(config, last_update(config, begun))
    if not updates_ahead(config, begun):
        return assembly
    agent, _ = make_split_agent(config, assembly.spec, assembly.topology.learner, begun)
    return with_agent(assembly, agent)


def make_split_agent(
    config: Config, spec: EnvSpec, learner: Mesh, begun: Counters | None = None
) -> tuple[Agent, list[ShardingRule]]:
    """The agent as training makes it, and the rules that lay out its state on the learner's devices.

    Args:
        config: The run's config.
        spec: The environment.
        learner: The learner's devices.
        begun: Where the run resumes; None if it begins.

    Raises:
        ConfigError: If parameters cannot be split as the config wants them.
    """

    def params_of(networks: Networks) -> PyTree:
        return jax.eval_shape(make_wrapped_agent(config, networks, spec).init, jax.random.key(0)).params

    networks, rules = make_split_networks(config, spec, learner, params_of)
    return make_wrapped_agent(config, networks, spec, begun), rules


def make_wrapped_agent(config: Config, networks: Networks, spec: EnvSpec, begun: Counters | None = None) -> Agent:
    """The agent with its networks, and with what the config puts around it, see `podrl.agents.parts.wrapping`.

    Args:
        config: The run's config.
        networks: Makes the networks that it asks for.
        spec: The environment.
        begun: Where the run resumes; None if it begins.

    Raises:
        ConfigError: if the environment's observations do not fit that.
    """
    begun = begun or Counters()
    replays = config.agent.update_shape.sequences is not None and not config.is_offline
    own = {"group_size": config.actors.num_envs // num_groups(config)} if replays else {}
    agent = load_agent(config.agent.name).make_agent(
        config.agent,
        networks=networks,
        spec=spec,
        num_envs=config.actors.num_envs,
        num_updates=last_update(config, begun),
        ahead=updates_ahead(config, begun),
        partition=partition_of(config),
        **own,
    )
    return wrap_agent(agent, config, spec)


def run(
    assembly: Assembly,
    *,
    start: Snapshot | None = None,
    hooks: Hooks | None = None,
    services: Services | None = None,
    job: Job = ALONE,
    programs: Programs | FusedPrograms | None = None,
    seeds: Sequence[SeedRun] = (),
) -> Outcome:
    """Trains by the run loop of the config, see `podrl.loops`: from a data set, or as `topology.placement` says."""
    hooks = with_rounds(assembly, hooks)
    loop: Callable[..., Outcome] = sebulba.run if assembly.recorded is None else offline.run
    if not isinstance(assembly.learner, Learner):
        loop = functools.partial(anakin.run, seeds=seeds)
    return loop(assembly, start=start, hooks=hooks, services=services, job=job, programs=programs)
