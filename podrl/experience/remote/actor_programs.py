"""What a learner needs to have actors in workers: what crosses the wire, and how far two policies are apart.

The divergence KL(those that act || newest) is the mean over a *reference batch*: unrolls of some environments that are
drawn from the newest rollouts by (seed, update), so that it is the same whatever the timing of workers. Both policies
are asked what they would do in every row, after what the environment went through before it in the unroll.

Source: the condition of Adaptive Policy Synchronisation (ClusterEnv), which measures it at the workers instead.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config, check
from podrl.config.remote import RemoteConfig
from podrl.experience.layout import Layout, global_shape
from podrl.experience.unroll import Unroller
from podrl.mesh import replicated, trajectory_sharding
from podrl.ops.keys import REFERENCE, purpose_key
from podrl.types import PyTree, Trajectory

# (parameters that act, newest, the update's rollouts, updates made) -> (those that act next, whether they are the
# newest, divergence).
DriftProgram = Callable[[PyTree, PyTree, tuple[Trajectory, ...], Any], tuple[PyTree, jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteActing:
    """What stands for `ActingPrograms` in the process that learns.

    Attributes:
        params: Shapes and dtypes of the parameters that act.
        rollout: Those of the trajectory of one pool.
        drift: Chooses parameters by their divergence, if `remote.publish` does.
    """

    params: PyTree
    rollout: Trajectory
    drift: DriftProgram | None


def check_publishing(config: Config, agent: Agent) -> None:
    """Raises `ConfigError` if parameters are to be published in a way that the run cannot.

    On drift the agent needs a divergence; without actor workers actors take the parameters that `actors.lag` says.
    """
    remote, default = config.remote, RemoteConfig()
    for name in ("publish", "publish_every", "max_drift", "reference_steps"):
        value = getattr(remote, name)
        check(
            remote.actor_workers > 0 or value == getattr(default, name),
            f"remote.{name}={value} says when actor workers get parameters, and there are none: actor threads take "
            "those that actors.lag says. Leave it out, or start actor workers by --actor_workers N "
            "(docs/actor_workers.md).",
        )
    check(
        not (remote.actor_workers and remote.publish == "drift") or agent.policies is not None,
        f"remote.publish='drift' needs an agent whose policies have a divergence; agent.name={config.agent.name!r} has "
        "none. Use remote.publish=every, with remote.publish_every=N for new parameters every N updates.",
    )


def compile_remote_acting(config: Config, unroller: Unroller, layout: Layout, mesh: Mesh) -> RemoteActing:
    """Compiles what the learner needs of its actor workers, on its mesh."""
    rollout = unroller.state_shape.rollout
    drift = None
    if config.remote.publish == "drift":
        num_pools = layout.num_actors * layout.pools_per_actor
        shapes = global_shape(rollout, layout.num_processes)
        drift = _compile_drift(config, unroller, [shapes] * num_pools, mesh)
    return RemoteActing(params=unroller.params_shape, rollout=rollout, drift=drift)


def measure_drift(
    agent: Agent,
    acting: PyTree,
    newest: PyTree,
    rollouts: Sequence[Trajectory],
    key: jax.Array,
    *,
    envs_per_rollout: int,
) -> jax.Array:
    """Computes KL(acting || newest) [] in nats, the mean over the transitions of some environments of each rollout.

    Args:
        agent: The agent, which has `policies`.
        acting: Parameters that act.
        newest: Other ones.
        rollouts: One of [T, B] for each pool.
        key: Decides which environments.
        envs_per_rollout: How many of each rollout, at most B.
    """
    if agent.policies is None or agent.divergence is None:
        raise ValueError("Found an agent without a divergence.")
    policies, divergence = agent.policies, agent.divergence
    total, count = jnp.float32(0), jnp.float32(0)
    for index, rollout in enumerate(rollouts):
        order = jax.random.permutation(jax.random.fold_in(key, index), rollout.env_index.shape[0])
        chosen = order[:envs_per_rollout]
        take = functools.partial(jnp.take, indices=chosen)
        part = rollout.map(functools.partial(take, axis=1), functools.partial(take, axis=0))
        apart = divergence(*(jax.tree.map(lambda x: x[:-1], policies(p, part)) for p in (acting, newest)))
        total += jnp.sum(jnp.where(part.is_transition, apart, 0.0))
        count += jnp.sum(part.is_transition)
    return total / jnp.maximum(count, 1)


def _compile_drift(config: Config, unroller: Unroller, shapes: Sequence[Trajectory], mesh: Mesh) -> DriftProgram:
    remote, num_envs = config.remote, shapes[0].env_index.shape[0]
    wanted = -(-remote.reference_steps // (unroller.unroll_length * len(shapes)))

    def choose(
        acting: PyTree, newest: PyTree, rollouts: tuple[Trajectory, ...], update: jax.Array
    ) -> tuple[PyTree, jax.Array, jax.Array]:
        key = jax.random.fold_in(purpose_key(config.seed, REFERENCE), update)
        drift = measure_drift(
            unroller.agent, acting, newest, rollouts, key, envs_per_rollout=max(1, min(wanted, num_envs))
        )
        keeps = jnp.maximum(drift, 0.0) < remote.max_drift  # False also where it is NaN, and always for a limit of 0.
        return jax.tree.map(lambda old, new: jnp.where(keeps, old, new), acting, newest), ~keeps, drift

    whole = replicated(mesh)

    def laid_out(shape: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    params = jax.tree.map(lambda shape: laid_out(shape, whole), unroller.params_shape)
    rollouts = tuple(jax.tree.map(laid_out, each, trajectory_sharding(mesh, each)) for each in shapes)
    update = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.jit(choose, out_shardings=whole).lower(params, params, rollouts, update).compile()
