"""JAX environments, inside the compiled program or on the host: what their sources build on.

Such a source writes two pure functions of *one* environment, its reset and its step. `make_many` turns them into many
environments with podrl's reset rule; `DevicePool` steps these on the host's CPU, with the interface of any other pool.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple, cast

from flax import struct
import jax
from jax import numpy as jnp
import numpy as np

from podrl.envs.source import JaxEnvironment, StepInfo
from podrl.envs.workers.info import InfoTally, Numbers
from podrl.ops.keys import ERA, era_keys, step_keys
from podrl.types import ACTION_MASK, PyTree, Timestep


class Transition(NamedTuple):
    """The result of one environment's step.

    Attributes:
        state: state after the step.
        observation: pytree of arrays; the final observation where the episode has ended.
        reward: [] of any dtype.
        terminated: [] bool; the episode ended by the environment's rules.
        truncated: [] bool; it was cut off, by a time limit; ignored where `terminated`.
        info: nested dictionaries of arrays; `()` if there are none.
    """

    state: PyTree
    observation: PyTree
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    info: PyTree = ()


Reset = Callable[[jax.Array], tuple[PyTree, PyTree]]  # (key) -> (state, observation)
Step = Callable[[jax.Array, PyTree, jax.Array], Transition]  # (key, state, action)


@struct.dataclass(kw_only=True)
class EpisodesState:
    """The states of `B` environments, and whether their episodes have ended.

    Attributes:
        environment: pytree of [B, ...].
        ended: [B] bool; the next step ignores its action and opens an episode.
    """

    environment: PyTree
    ended: jax.Array


def make_many(reset: Reset, step: Step) -> JaxEnvironment:
    """Makes many environments with podrl's reset rule from one that does not reset itself.

    Both functions are computed in every step, since the environments of a batch cannot take different branches; the
    same key serves whichever result is used.

    Args:
        reset: reset function of one environment.
        step: step function of one environment; its result after an episode's end does not matter.
    """

    def init(keys: jax.Array) -> tuple[EpisodesState, Timestep]:
        state, observation = _strong(jax.vmap(reset)(keys))
        zeros = jnp.zeros(keys.shape, jnp.float32)
        first = jnp.ones(keys.shape, bool)
        opened = Timestep(observation=observation, reward=zeros, discount=zeros + 1, first=first)
        return EpisodesState(environment=state, ended=~first), opened

    def step_one(
        key: jax.Array, state: PyTree, ended: jax.Array, action: jax.Array
    ) -> tuple[EpisodesState, Timestep, StepInfo]:
        opened, stepped = _strong(reset(key)), _strong(step(key, state, action))
        new_state, observation = jax.tree.map(
            lambda new, old: jnp.where(ended, new, old), opened, (stepped.state, stepped.observation)
        )
        terminated, ends = ~ended & stepped.terminated, ~ended & (stepped.terminated | stepped.truncated)
        if isinstance(observation, Mapping) and ACTION_MASK in observation:  # What is done at the end is not done.
            observation = {**observation, ACTION_MASK: observation[ACTION_MASK] | ends}
        timestep = Timestep(
            observation=observation,
            reward=jnp.where(ended, 0.0, stepped.reward).astype(jnp.float32),
            discount=1.0 - terminated.astype(jnp.float32),
            first=ended,
        )
        told = StepInfo(info=stepped.info, ended=ends)
        return EpisodesState(environment=new_state, ended=ends), timestep, told

    def step_with_info(
        keys: jax.Array, state: EpisodesState, action: jax.Array
    ) -> tuple[EpisodesState, Timestep, StepInfo]:
        return jax.vmap(step_one)(keys, state.environment, state.ended, action)

    def step_all(keys: jax.Array, state: EpisodesState, action: jax.Array) -> tuple[EpisodesState, Timestep]:
        return step_with_info(keys, state, action)[:2]

    return JaxEnvironment(init=init, step=step_all, step_with_info=step_with_info)


class DevicePool:
    """A `Pool` of JAX environments on the host's CPU; they step while the caller does other things.

    Environment i starts from the key of its seed, and its step t uses that key folded with t, so it depends on its seed
    and its actions alone.
    """

    def __init__(self, environment: JaxEnvironment, action: jax.ShapeDtypeStruct, seeds: Sequence[int]):
        """Prepares the environments; the first calls compile.

        Args:
            environment: the environment to step; pools of the same object share one compiled program.
            action: shape and dtype of one environment's action.
            seeds: [B] in [0, 2**31).

        Raises:
            ValueError: if there are no seeds.
        """
        if not seeds:
            raise ValueError("A pool needs seeds; found none.")
        self._device = _host_cpu()
        self._init, self._step, self._step_with_info = _programs(environment)
        self._action_shape, self._action_dtype = (len(seeds), *action.shape), action.dtype
        self._seeds = np.asarray(seeds, np.uint32)
        self._state: Any = None
        self._steps = 0
        self._timestep: Timestep | None = None  # The running step's.
        self._told: StepInfo | None = None  # The running step's, if it is recorded.
        self._tally: InfoTally | None = None
        self._closed = False
        self.ended_numbers: Numbers = {}

    def record_info(self, keys: Sequence[str]) -> None:
        """Starts recording numbers of `info`; see `podrl.envs.info.InfoPool`."""
        self._tally = InfoTally(keys, len(self._seeds))

    def reset(self) -> Timestep:
        """Opens an episode in every environment."""
        self._require(not self._closed, "use after close()")
        self._require(self._timestep is None, "reset() while a step is running; call recv() first")
        self._steps = 0
        self._state, timestep = self._init(jax.device_put(self._seeds, self._device))
        return jax.tree.map(np.asarray, timestep)

    def send(self, action: np.ndarray) -> None:
        """Starts one step with actions [B, ...]."""
        self._require(not self._closed, "use after close()")
        self._require(self._state is not None, "send() before reset()")
        self._require(self._timestep is None, "send() twice without recv()")
        if action.shape != self._action_shape:
            raise ValueError(f"Found actions of shape {action.shape}; expected {self._action_shape}.")
        self._steps += 1
        era, step = divmod(self._steps, ERA)
        inputs = (self._seeds, np.uint32(era), np.uint32(step), action.astype(self._action_dtype))
        inputs = jax.device_put(inputs, self._device)
        if self._tally is None:
            self._state, self._timestep = self._step(self._state, *inputs)
        else:
            self._state, self._timestep, self._told = self._step_with_info(self._state, *inputs)

    def recv(self) -> Timestep:
        """Waits for the step that `send` started."""
        self._require(not self._closed, "use after close()")
        self._require(self._timestep is not None, "recv() without send(), which would never return")
        timestep, self._timestep = jax.tree.map(np.asarray, self._timestep), None
        if self._tally is not None:
            told = jax.tree.map(np.asarray, self._told)
            self.ended_numbers = self._tally.add_columns(told.info or {}, timestep.first, told.ended)
        return timestep

    def close(self) -> None:
        """Frees the environments."""
        self._closed, self._state, self._timestep = True, None, None

    def _require(self, condition: bool, mistake: str) -> None:
        """Raises `RuntimeError` if calls come in an order that cannot work."""
        if not condition:
            raise RuntimeError(f"Environment pool: {mistake}.")


@functools.cache
def _programs(environment: JaxEnvironment) -> tuple[Callable[..., Any], ...]:
    """Returns jitted functions that open environments, step them, and step them with `info`, given their seeds."""

    def init(seeds: jax.Array) -> tuple[PyTree, Timestep]:
        return environment.init(step_keys(jax.vmap(jax.random.key)(seeds), jnp.uint32(0)))

    def stepping(function: Callable[..., Any] | None) -> Callable[..., Any]:
        def step(state: PyTree, seeds: jax.Array, era: jax.Array, step: jax.Array, action: jax.Array) -> Any:
            keys = era_keys(jax.vmap(jax.random.key)(seeds), era)
            return cast(Any, function)(step_keys(keys, step), state, action)

        return jax.jit(step, donate_argnums=0)

    return jax.jit(init), stepping(environment.step), stepping(environment.step_with_info)


def _host_cpu() -> jax.Device:
    """Returns the process's first CPU device, or its first device of any kind if JAX was started without CPUs."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def _strong(tree: PyTree) -> PyTree:
    """Returns the tree with strong dtypes: Python's numbers become arrays whose type no operation changes."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)
