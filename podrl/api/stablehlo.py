"""Writes an agent as StableHLO to one file, which plays without podrl: JAX and NumPy read it (docs/python.md).

The file is a zip archive of three members:

- `policy.json`: what goes in and out, see `_describe`. `format` is the version of this layout.
- `start`: (seed [] int32, env_index [B] uint32) -> carry, a tuple of arrays [B, ...].
- `act`: (observation, reward [B] float32, first [B] bool, carry) -> (action [B, ...], carry).

Both are programs of `jax.export` with the parameters inside, for every platform in `policy.json`, and for any B where
the network allows it. The carry holds the network's state, frames, the last action, and the keys of a sampled policy.
Observations and actions have podrl's own form (docs/reference/observations.md); `policy.json` has what turns them
into the environment's.
"""

from collections.abc import Callable, Mapping
import importlib.metadata
import io
import json
import os
from typing import Any
import zipfile

from absl import logging
from etils import epath
import jax
from jax import export
from jax import numpy as jnp
import numpy as np

from podrl.actions import ContinuousActions, HybridActions, options_of
from podrl.api.border import allow_all_where_none_is
from podrl.api.policy import open_saved
from podrl.config.config import check_one_of
from podrl.config.paths import absolute
from podrl.envs.action_units import describe_units
from podrl.envs.observations import describe_observation
from podrl.evaluation.play import POLICIES, act_in_steps
from podrl.ops.keys import EVALUATE
from podrl.runs.export import check_target, write_whole
from podrl.runtime.software import find_commit
from podrl.saved_run import SavedRun
from podrl.types import PyTree, Timestep

POLICY_FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")
_DATE = (1980, 1, 1, 0, 0, 0)


def export_policy(
    workdir: str | os.PathLike,
    path: str | os.PathLike,
    *,
    step: int | None = None,
    policy: str = "greedy",
) -> dict[str, Any]:
    """Writes the agent of a run to one file, and returns what its `policy.json` says.

    Args:
        workdir: The run's folder.
        path: The file to write, which ends in `.stablehlo`.
        step: The update whose checkpoint to take; the newest by default.
        policy: `greedy` takes what the agent rates highest, `sampled` acts as in training.

    Raises:
        ConfigError: If there is no such run or checkpoint, or the file cannot be written.
        CheckpointError: If the checkpoint is damaged.
    """
    check_one_of("policy", policy, POLICIES)
    target = epath.Path(absolute(os.fspath(path)))
    check_target(target)
    saved, _ = open_saved(workdir, step)
    programs, size = _export(saved, policy)
    facts = _describe(saved, policy, programs, size)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        contents = {name: bytes(program.serialize()) for name, program in programs.items()}
        contents["policy.json"] = (json.dumps(facts, indent=2) + "\n").encode()
        for name, content in contents.items():
            members.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    write_whole(target, archive.getvalue())
    return facts


def _export(saved: SavedRun, policy: str) -> tuple[dict[str, export.Exported], int | None]:
    """Returns the programs, and the number of environments that they are for; None for any number."""
    (symbol,) = export.symbolic_shape("b")
    try:
        return _programs(saved, policy, symbol), None
    except (jax.errors.InconclusiveDimensionOperation, NotImplementedError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        logging.warning("The policy is exported for one environment, as its network needs a number: %s", reason)
        return _programs(saved, policy, 1), 1


def _programs(saved: SavedRun, policy: str, num_envs: Any) -> dict[str, export.Exported]:
    """Returns the programs for a number of environments, or for a symbol that stands for it."""
    params, act_at = jax.device_get(saved.params), act_in_steps(saved.agent, policy)
    carry_of = saved.agent.initial_carry
    tree = jax.tree.structure(jax.eval_shape(carry_of, jax.ShapeDtypeStruct((1,), jnp.uint32)))

    def start(seed: jax.Array, env_index: jax.Array) -> tuple[jax.Array, ...]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), EVALUATE), 0)
        keys = jax.random.key_data(jax.random.split(key, env_index.shape[0]))
        return (*jax.tree.leaves(carry_of(env_index)), keys, jnp.zeros(env_index.shape, jnp.int32))

    def act(observation: PyTree, reward: jax.Array, first: jax.Array, carry: tuple[jax.Array, ...]) -> Any:
        *leaves, key_data, step = carry
        keys = jax.random.wrap_key_data(key_data)
        ones = jnp.ones_like(reward)
        observed = allow_all_where_none_is(observation, saved.spec)
        timestep = Timestep(observation=observed, reward=reward, discount=ones, first=first)
        action, after = act_at(params, timestep, jax.tree.unflatten(tree, leaves), keys, step[0])
        return action, (*jax.tree.leaves(after), key_data, step + 1)

    def of(struct: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_envs, *struct.shape), struct.dtype)

    seed, index = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((num_envs,), jnp.uint32)
    started = export.export(jax.jit(start), platforms=PLATFORMS)(seed, index)
    carry = jax.eval_shape(start, seed, index)
    number, flag = jax.ShapeDtypeStruct((num_envs,), jnp.float32), jax.ShapeDtypeStruct((num_envs,), jnp.bool_)
    observation = jax.tree.map(of, saved.spec.observation)
    return {"start": started, "act": export.export(jax.jit(act), platforms=PLATFORMS)(observation, number, flag, carry)}


def _describe(
    saved: SavedRun, policy: str, programs: Mapping[str, export.Exported], num_envs: int | None
) -> dict[str, Any]:
    """Returns the content of `policy.json`; shapes are those of one environment."""
    config, actions = saved.config, saved.spec.actions
    struct = actions.struct
    return {
        "format": POLICY_FORMAT,
        "podrl": _own_version(),
        "jax": jax.__version__,
        "calling_convention": programs["act"].calling_convention_version,
        "platforms": list(programs["act"].platforms),
        "num_envs": num_envs,
        "run": config.name,
        "agent": config.agent.name,
        "policy": policy,
        "update": saved.counters.learner_steps,
        "env_steps": saved.counters.env_steps,
        "env": {"source": config.env.source, "id": config.env.id},
        "observation": jax.tree.map(_shape, saved.spec.observation),
        "observed_as": describe_observation(saved.spec),
        "action": {
            **_shape(struct),
            "options": list(options_of(actions)),
            "numbers": actions.size if isinstance(actions, ContinuousActions | HybridActions) else 0,
            **_units(saved),
        },
        "carry": [{"shape": list(map(str, x.shape[1:])), "dtype": x.dtype.name} for x in programs["start"].out_avals],
        "sees_reward": config.network.last_reward,
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("podrl")
    except importlib.metadata.PackageNotFoundError:  # A checkout on Python's path.
        return find_commit() or "unknown"


def _shape(struct: Any) -> dict[str, Any]:
    return {"shape": list(struct.shape), "dtype": np.dtype(struct.dtype).name}


def _units(saved: SavedRun) -> dict[str, Any]:
    """Returns what turns an action into the environment's own, where its source has Gymnasium's spaces."""
    make: Callable[[Any], tuple[Any, Any]] | None = saved.source.make_spaces
    return describe_units(make(saved.config.env)[1], saved.spec.actions) if make else {}
