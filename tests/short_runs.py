"""Small real runs for tests: configs, agents and random trajectories."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import common
from podrl import assembly
from podrl.agents.parts.interface import Agent, Fresh
from podrl.agents.parts.loading import load_agent
from podrl.agents.parts.nonfinite import skip_nonfinite
from podrl.agents.parts.updating import make_update
from podrl.config.config import CheckpointConfig, Config, EvaluateConfig, LogConfig
from podrl.config.config_dict import from_config_dict
from podrl.experience.unroll import Unroller
from podrl.loops.interface import Assembly, Hooks, Outcome, Services
from podrl.replay.ring import RingRows
from podrl.runtime.interruption import Stop
from podrl.runtime.job.job import ALONE, Job
from podrl.types import EnvSpec, LearnerState, Metrics, Sample, Snapshot, Trajectory

_COMPILE = Assembly.compile
TIMING = {"env_steps_per_second", "frames_per_second", "data/samples_per_second"}


def make_config(env_id: str = "Catch-v0", *, agent: str = "impala", **overrides: Any) -> Config:
    """An agent with a small MLP; overrides are dotted keys with `__` for the dots."""
    config = common.make_config("test", env_id, total_env_steps=10 * 8 * 4)
    config.agent = dataclasses.asdict(load_agent(agent).AgentConfig())
    config.actors.num_envs = 8
    config.actors.unroll_length = 4
    config.actors.env_threads = 1
    config.actors.timeout_s = 30.0
    config.network.hidden_sizes = (16,)
    config.log.every_updates = 1
    for key, value in overrides.items():
        section, _, name = key.rpartition("__")
        target = config
        for part in section.split("__") if section else []:
            target = target[part]
        target[name] = value
    return from_config_dict(config, load_agent(agent).AgentConfig)


def scripted_config(options: Mapping[str, Any] | None = None, **overrides: Any) -> Config:
    """The same on the scripted environment of `tests.envs.scripted`."""
    return make_config("scripted", env__source="tests.envs.scripted", env__options=dict(options or {}), **overrides)


def anakin_config(env_id: str = "CartPole-v1", **overrides: Any) -> Config:
    """The same in a JAX environment, inside the compiled program."""
    return make_config(env_id, env__source="gymnax", topology__placement="anakin", **overrides)


def make_agent(config: Config) -> tuple[Agent, EnvSpec]:
    agent, spec, _ = assembly.assemble_agent(config)
    return agent, spec


def run(
    config: Config,
    num_devices: int = 1,
    *,
    agent: Agent | None = None,
    source: Any = None,
    start: Snapshot | None = None,
    programs: Any = None,
    job: Job = ALONE,
    save: Callable[[Snapshot], None] = lambda snapshot: None,
    before_update: Callable[[int], None] = lambda update: None,
    show_phase: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], int] = lambda: 0,
    give_up: Callable[[], bool] | None = None,
    hooks: Mapping[str, Any] | None = None,
    **services: Any,
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Trains, and returns the outcome and the rows of metrics.

    Args:
        config: The run's config.
        num_devices: How many devices to train on.
        agent: Another agent than the config's.
        source: Another source than the config's.
        start: Where the run resumes.
        programs: Compiled before.
        job: All processes.
        save: Takes each checkpoint.
        before_update: Told the number of the next update, from 1.
        show_phase: Told what happens before training.
        should_stop: Returns the exit code to stop with before the next update.
        give_up: Ends long waits; by default `should_stop` does.
        hooks: Further fields of `Hooks`.
        services: Fields of `Services`.
    """
    parts = assembly.assemble(config, jax.devices()[:num_devices])
    parts = parts if source is None else dataclasses.replace(parts, source=source)
    if agent is not None:
        parts = assembly.with_agent(parts, agent)
        programs = programs or _COMPILE(parts)
    rows: list[dict[str, Any]] = []
    outcome = assembly.run(
        parts,
        start=start,
        hooks=Hooks(
            **{
                "write_row": lambda row: rows.append(dict(row)),
                "save": save,
                "show_phase": show_phase,
                "before_update": lambda launched, ended: before_update(launched.learner_steps + 1),
                **(hooks or {}),
            },
        ),
        services=Services(stop=Stop(code=should_stop, now=give_up or (lambda: bool(should_stop()))), **services),
        job=job,
        programs=programs,
    )
    return outcome, rows


@contextlib.contextmanager
def shared_programs() -> Iterator[None]:
    """Runs that differ in nothing that is compiled compile their programs once, as these are good for any run.

    A small run spends most of its time on that. Runs of an agent that their config does not name compile their own. Not
    for runs that resume after updates of another size, which the config does not show.
    """
    known = dict[str, Any]()

    def compile_or_recall(self: Assembly) -> Any:
        key = _what_is_compiled(self)
        if key not in known:
            known[key] = _COMPILE(self)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Assembly, "compile", compile_or_recall)
        yield


def _what_is_compiled(parts: Assembly) -> str:
    config = dataclasses.replace(parts.config, evaluate=EvaluateConfig())
    # The environment is not in these programs, nor when it returns.
    if config.topology.placement == "sebulba" or config.is_offline:
        shape, fixed = parts.config.env, {"checkpoint": CheckpointConfig(), "log": LogConfig(), "name": "run"}
        env = dataclasses.replace(shape, id="any", options={}, wrappers=(), workers=0)
        data = dataclasses.replace(config.data, prefetch=1) if config.is_offline else config.data
        config = dataclasses.replace(config, env=env, data=data, **fixed)
    return repr((config, parts.spec, [device.id for device in parts.topology.mesh.devices.flat]))


def facts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics without what depends on the clock, or on who steps the environments."""
    return [
        {k: v for k, v in row.items() if k not in TIMING and not k.startswith(("time/", "remote/"))} for row in rows
    ]


def make_agent_update(
    agent: Agent, *, skips_nonfinite: bool = False
) -> Callable[[LearnerState, Trajectory], tuple[LearnerState, Metrics]]:
    """The update that a run makes of the agent, as a function of the state and the joined rollouts."""
    update = skip_nonfinite(make_update(agent)) if skips_nonfinite else make_update(agent)
    return lambda state, trajectory: update(state, Fresh(rollouts=trajectory))


def random_trajectory(agent: Agent, spec: EnvSpec, length: int, num_envs: int, seed: int = 0) -> Trajectory:
    """Noise with resets, terminations and the behaviour of a policy near the agent's; masks allow all."""
    rng = np.random.default_rng(seed)

    def noise(*shape: int, dtype: Any = np.float32) -> np.ndarray:
        if np.issubdtype(dtype, np.integer):
            return rng.integers(0, 256, shape).astype(dtype)
        if np.issubdtype(dtype, np.bool_):
            return np.ones(shape, dtype)
        return rng.normal(size=shape).astype(dtype)

    shape = (length, num_envs)
    first = rng.random((length + 1, num_envs)) < 0.1
    trajectory = Trajectory(
        observation=jax.tree.map(lambda x: noise(length + 1, num_envs, *x.shape, dtype=x.dtype), spec.observation),
        first=first,
        action=spec.actions.sample(rng, shape),
        reward=noise(*shape),
        discount=(rng.random(shape) > 0.1).astype(np.float32),
        behaviour=jax.tree.map(
            lambda x: noise(length, *x.shape) * np.float32(0.3), behaviour_shape(agent, spec, num_envs)
        ),
        carry=agent.initial_carry(np.arange(num_envs, dtype=np.uint32)),
        opening_reward=noise(num_envs),
        env_index=np.arange(num_envs, dtype=np.uint32),
        params_version=np.zeros(shape, np.int32),
    )
    return jax.tree.map(jnp.asarray, trajectory)  # Made in numpy, since of each shape JAX would compile each operation.


def random_recorded(agent: Agent, spec: EnvSpec, length: int, batch: int, seed: int = 0) -> Sample:
    """Noise as a data set gives it: sequences that may reach behind the end of their episode, with rows before them.

    Nobody wrote what a policy recorded, nor whose parameters acted. Weights differ. The carry is what is kept of one
    where nothing was recorded.
    """
    rng, rows = np.random.default_rng((seed, 1)), 3
    fresh = jax.device_get(random_trajectory(agent, spec, length + rows, batch, seed))
    steps = rng.integers(1, 2 * length + 1, batch)  # That an episode has left.
    number, ends = np.arange(length + 1)[:, None], rng.random(batch) < 0.5
    behind = number > steps
    opens = rng.random(batch) < 0.3
    before = RingRows(
        observation=jax.tree.map(lambda x: x[:rows], fresh.observation),
        first=rng.random((rows, batch)) < 0.2,
        action=fresh.action[:rows],
        reward=fresh.reward[:rows],
        discount=np.ones((rows, batch), np.float32),
        behaviour=(),
        params_version=(),
    )
    trajectory = dataclasses.replace(
        fresh,
        observation=jax.tree.map(lambda x: _held_at(x[rows:], np.minimum(number, steps)), fresh.observation),
        first=behind | ((number == 0) & opens),
        action=fresh.action[rows:],
        reward=np.where(behind[1:], 0, fresh.reward[rows:]).astype(np.float32),
        discount=np.where((number[1:] == steps) & ends, 0, 1).astype(np.float32),
        behaviour=(),
        carry=agent.keep(agent.initial_carry(np.arange(batch, dtype=np.uint32))),
        opening_reward=np.where(opens, 0, before.reward[-1]).astype(np.float32),
        params_version=(),
    )
    weight = rng.uniform(0.5, 1.5, batch).astype(np.float32)
    return jax.tree.map(jnp.asarray, Sample(trajectory=trajectory, weight=weight, before=before))


def _held_at(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Takes rows [T, B] of x [T, B, ...]: behind the end of an episode its last observation stays."""
    return np.take_along_axis(x, rows.reshape(*rows.shape, *(1,) * (x.ndim - 2)), 0)


def behaviour_shape(agent: Agent, spec: EnvSpec, num_envs: int) -> Any:
    """Shapes of what the agent records with an action, for a batch of environments."""
    unroller = Unroller(agent=agent, spec=spec, unroll_length=1, num_envs=num_envs)
    rollout = unroller.state_shape.rollout
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rollout.behaviour)


def all_resets(trajectory: Trajectory) -> Trajectory:
    """The same trajectory in which every row is a reset."""
    return dataclasses.replace(trajectory, first=jnp.asarray(np.ones(trajectory.first.shape, bool)))
