"""The records that flow through podrl.

`T` is the unroll length, `B` the number of environments in the array at hand; time comes first. Row t of a trajectory
holds what the agent saw at t, what it did there, and what *that action* earned: `reward[t]` and `discount[t]` are the
result of `action[t]`.

Environments reset on the *next* step: the final observation of an episode arrives with the step that ended it, and the
call after that ignores its action and returns the first observation of a new episode with reward 0. So row t of a
trajectory is a real transition exactly when `first[t + 1]` is false (see `Trajectory.is_transition`). A truncation is
`discount == 1` followed by such a reset row, and bootstraps from the true final observation.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import struct
import jax

from podrl.actions import ActionSpace

Array = Any  # jax.Array, or np.ndarray on the host

# Parts of an observation beside its images, which have the environment's names.
VECTOR = "vector"  # All entries that are no images, joined.
ACTION_MASK = "action_mask"  # [L] bool: which options can be taken, see `podrl.actions.num_logits`. Encoders skip it.

# A pytree of arrays. Python's type system cannot say more about it.
PyTree = Any


@struct.dataclass(kw_only=True)
class Timestep:
    """What `B` environments return from one step or reset.

    Attributes:
        observation: pytree of [B, ...]; what the agent sees now.
        reward: [B] float32; earned by the step that led here, raw (not clipped).
        discount: [B] float32; 0 if that step terminated the episode, else 1. There is no agent's discount in it.
        first: [B] bool; this observation opens an episode, so the step that led here was a reset.

    Environments return numpy arrays, agents take jax arrays.
    """

    observation: PyTree
    reward: Array
    discount: Array
    first: Array


@struct.dataclass(kw_only=True)
class Trajectory:
    """`T` steps of `B` environments and the observation after the last of them.

    Attributes:
        observation: pytree of [T+1, B, ...]; the last row only bootstraps, and is row 0 of the next unroll.
        first: [T+1, B] bool; the row opens an episode.
        action: [T, B, ...]; taken in row t.
        reward: [T, B] float32; the result of `action[t]`.
        discount: [T, B] float32; the result of `action[t]`: 0 if it terminated the episode, else 1.
        behaviour: pytree of [T, B, ...]; what the acting policy recorded (logits, value, ...).
        carry: pytree of [B, ...]; the network's state before row 0; `()` if it has none.
        opening_reward: [B] float32; came with row 0's observation: the result of the action before `action[0]`.
        env_index: [B] uint32; which of the whole job's environments these are, wherever they run. An update that is
            random folds it into its keys, and so is the same on any number of devices.
        params_version: [T, B] int32; the learner step of the parameters that acted.
    """

    observation: PyTree
    first: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    behaviour: PyTree
    carry: PyTree
    opening_reward: jax.Array
    env_index: jax.Array
    params_version: jax.Array

    @property
    def is_transition(self) -> jax.Array:
        """[T, B] bool: true where row t is a real transition, false where `action[t]` only triggered a reset."""
        return ~self.first[1:]

    def map(self, timed: Callable[[Any], Any], untimed: Callable[[Any], Any]) -> "Trajectory":
        """A trajectory of `timed` of each leaf [T, B, ...] or [T+1, B, ...], and `untimed` of each leaf [B, ...]."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        functions = {"carry": untimed, "opening_reward": untimed, "env_index": untimed}
        return Trajectory(**{name: jax.tree.map(functions.get(name, timed), leaf) for name, leaf in fields.items()})


@struct.dataclass(kw_only=True)
class Sample:
    """Trajectories to learn from.

    Attributes:
        trajectory: [T, B]; fresh, or drawn from replay or from recorded data.
        weight: [B] float32; each trajectory's weight in the loss. Ones if it was not drawn by priority.
        before: pytree of [R, B, ...]; the rows before a sequence from replay (`podrl.replay.ring.RingRows`), of which a
            network makes what the ring does not keep of its carry. `()` where `trajectory.carry` is whole.
    """

    trajectory: Trajectory
    weight: jax.Array
    before: PyTree = ()

    def map(self, timed: Callable[[Any], Any], untimed: Callable[[Any], Any]) -> "Sample":
        """A sample of `timed` of each leaf [T, B, ...] or [R, B, ...], and `untimed` of each leaf [B, ...]."""
        return Sample(
            trajectory=self.trajectory.map(timed, untimed),
            weight=untimed(self.weight),
            before=jax.tree.map(timed, self.before),
        )


@struct.dataclass(kw_only=True)
class LearnerState:
    """All that an update reads and writes; what a checkpoint holds.

    Attributes:
        step: [] int32; updates done so far.
        learner_step: [] int32; calls of `Agent.learn` so far, which schedules of an agent's own may go by.
        params: The network's parameters, nested dicts of arrays.
        opt_state: The optimizer's state.
        extra: Target networks, duals, statistics; `()` if the agent has none. Laid out by the parameters' path rules.
        replay: What is kept of earlier updates' experience, split over the mesh axis `data`; `()` without replay.
            Neither actors nor evaluations get it.
        key: A typed PRNG key, split by agents whose update is random.
    """

    step: jax.Array
    learner_step: jax.Array
    params: PyTree
    opt_state: PyTree
    extra: PyTree
    replay: PyTree = ()
    key: jax.Array


@struct.dataclass(kw_only=True)
class FusedState(LearnerState):
    """The learner's state and that of the environments it learns from, where both are in one program.

    Attributes:
        environments: pytree of [B, ...]: the environments, and the state of acting in them.
    """

    environments: PyTree

    @property
    def learner(self) -> LearnerState:
        """The learner's part."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(LearnerState)}
        return LearnerState(**fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counters:
    """Progress of the whole job, as Python ints, equal on every process (a device's int32 ends at 2.1e9).

    Attributes:
        learner_steps: updates done.
        env_steps: agent decisions that the learner has consumed.
        frames: emulator frames behind them (4 per step on Atari).
    """

    learner_steps: int = 0
    env_steps: int = 0
    frames: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a run needs to resume where it stands, at a boundary (`podrl.config.config.CheckpointConfig`).

    Attributes:
        state: the learner's.
        counters: progress of the job.
        episodes: The newest episodes and how many there were; plain numbers, as `EpisodeWindow.record` gives them.
        chain: The chain of fingerprints so far, as `MetricsRows.chain` gives it; zeros before the first.
        wall_s: the run's clock, the seconds that all its starts trained for; None if a checkpoint does not say.
    """

    state: LearnerState
    counters: Counters
    episodes: Mapping[str, Any]
    chain: str = 16 * "0"
    wall_s: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What the rest of podrl needs to know of an environment.

    Attributes:
        id: the environment's name at its source.
        observation: pytree of `jax.ShapeDtypeStruct` of *one* environment (no batch axis). Images are [H, W, C].
        actions: The actions of one environment.
        frames_per_step: emulator frames per agent decision.
        observed: how the source understood the environment's observations, for people; shapes are the environment's.
        env_before: keys of `config.env` and their values with which an agent sees what it saw before podrl had them.
    """

    id: str
    observation: PyTree
    actions: ActionSpace
    frames_per_step: int = 1
    observed: str = dataclasses.field(default="", compare=False)
    env_before: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)


Metrics = Mapping[str, jax.Array]
