"""What podrl asks of an agent: the batches that it learns from, how its updates divide them, and its functions."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import struct
import jax

from podrl.actions import ContinuousActions, DiscreteActions, HybridActions, MultiDiscreteActions
from podrl.config.config import check
from podrl.types import EnvSpec, LearnerState, Metrics, PyTree, Sample, Timestep, Trajectory

_KINDS = {
    DiscreteActions: "one choice",
    MultiDiscreteActions: "several choices at once",
    ContinuousActions: "numbers",
    HybridActions: "choices and numbers at once",
}


def check_actions(config: Any, spec: EnvSpec) -> None:
    """Checks that an agent can act in an environment.

    Args:
        config: The agent's config, which lists the kinds of actions that it takes in a class variable `action_kinds`.
        spec: The environment.

    Raises:
        ConfigError: If the environment's actions are of another kind.
    """
    others = "bc" if config.update_shape.needs_data else "ppo or impala"
    check(
        isinstance(spec.actions, config.action_kinds),
        f"agent.name={config.name!r} takes actions of {' or '.join(_KINDS[kind] for kind in config.action_kinds)}; "
        f"those of env.id={spec.id!r} are {_KINDS[type(spec.actions)]}. Use another agent, such as {others}.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceShape:
    """The sequences that an agent learns from, drawn from a ring of the newest steps (`replay.capacity`) or a data set.

    Its config has fields `burn_in` and `length`.

    Attributes:
        burn_in: Rows that only warm up the carry.
        length: Transitions that are learned from, behind those.
        extra: Rows behind those, for targets over several steps.
        from_every_row: Whether a sequence can start at every row, without a stored carry, and not only where an unroll
            starts.
        fewest_in_group: Environments that each group of the replay needs, see `podrl.replay.groups.choose_groups`.
    """

    burn_in: int
    length: int
    extra: int = 0
    from_every_row: bool = False
    fewest_in_group: int = 1

    @property
    def rows(self) -> int:
        """Rows of a sequence."""
        return self.burn_in + self.length + self.extra


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateShape:
    """How an update divides its batch; a property `update_shape` of every agent's `AgentConfig` says it.

    Attributes:
        minibatches: Parts of the batch, one optimizer step for each.
        epochs: Passes over the batch. If an agent can take more than one, its config has a field of this name.
        divides_rows: Whether minibatches are rows of every environment, instead of all rows of some environments.
        loops_steps: Whether the agent makes a loop of its optimizer steps, see `Partition.rolls_steps`. Otherwise each
            is a copy of its own in the compiled program.
        replays: Whether the agent can learn from batches of earlier updates, several times (`replay.batches`).
        sequences: What the agent learns from if that is sequences from a ring; None if it is whole batches.
        recorded: The samples of a data set that the agent can learn from; None if it cannot.
        needs_data: Whether a data set is all that it learns from: it never learns from its own run's experience.
    """

    minibatches: int = 1
    epochs: int = 1
    divides_rows: bool = False
    loops_steps: bool = False
    replays: bool = False
    sequences: SequenceShape | None = None
    recorded: SequenceShape | None = None
    needs_data: bool = False

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps in an update."""
        return self.minibatches * self.epochs

    @property
    def grid(self) -> tuple[int, int]:
        """Into how many parts minibatches divide the environments, and the rows of each."""
        return (1, self.minibatches) if self.divides_rows else (self.minibatches, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partition:
    """How the compiled update goes through its batch on this topology; the result is the same except for rounding.

    Attributes:
        micro_batches: Parts that the gradient of an optimizer step is summed over, one after the other.
        rolls_micro_batches: Whether these parts are a loop of the compiled program, instead of a copy of each.
        rolls_steps: Whether optimizer steps are a loop of the compiled program, if an agent makes a loop of them.
    """

    micro_batches: int = 1
    rolls_micro_batches: bool = False
    rolls_steps: bool = True


@struct.dataclass(kw_only=True)
class Batch:
    """What one call of `Agent.learn` learns from.

    Attributes:
        rollouts: Experience of the run itself; None if there is none.
        recorded: Streams from data sets, by name.
    """

    rollouts: Sample | None = None
    recorded: Mapping[str, Sample] = dataclasses.field(default_factory=dict)


@struct.dataclass(kw_only=True)
class Fresh:
    """What one update is given.

    Attributes:
        rollouts: [T, B]; the newest rollouts of all actors; None in a run without actors.
        recorded: Streams from data sets, by name, with a leading axis [K]: one sample for each call of `Agent.learn`.
    """

    rollouts: Trajectory | None = None
    recorded: Mapping[str, Sample] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agent:
    """An algorithm as pure functions. `podrl.agents.parts.updating` makes an update of them.

    What wraps an agent wraps the functions that it changes, so that it also holds where `learn` is called on samples.

    Attributes:
        init: (key) -> LearnerState.
        initial_carry: (env_index [B] uint32) -> carry of [B, ...]: the state before the first step of these
            environments of the job.
        actor_params: (state) -> what actors need to act, a pytree. Reads `step`, `params` and `extra` only.
        act: (actor_params, timestep, carry, keys) -> (action [B, ...], behaviour pytree of [B, ...], carry). `keys` is
            [B] typed PRNG keys, one per environment, so that what an environment samples does not depend on which
            others share its batch.
        act_greedy: (actor_params, timestep, carry, keys) -> (action [B, ...], carry): what the agent takes for best,
            for evaluation. The carry continues as in `act`.
        learn: (state, batch) -> (state, metrics, priority): all that is learned from one batch. Metrics are scalars,
            priority is [B] float32 for replay, or None. The state's `replay` is `()` here; its counts are the caller's.
        observe: (state, rollouts) -> state: what fresh experience changes before anything is learned from it, such as
            statistics.
        policies: (actor_params, trajectory [T, B]) -> pytree of [T+1, B, ...], the parameters of the distributions that
            these would sample the actions of each row from; None if the agent has no divergence.
        divergence: (policies, policies) -> [T+1, B] or the like, how far two of those are apart: KL(first || second) in
            nats; None if the agent does not define it.
        keep: (carry) -> pytree of [B, ...], what a ring of sequences keeps of `Trajectory.carry`. A sampled trajectory
            has that as its carry; `learn` makes the rest of `Sample.before`.
    """

    init: Callable[[jax.Array], LearnerState]
    initial_carry: Callable[[jax.Array], PyTree]
    actor_params: Callable[[LearnerState], PyTree]
    act: Callable[[PyTree, Timestep, PyTree, jax.Array], tuple[jax.Array, PyTree, PyTree]]
    act_greedy: Callable[[PyTree, Timestep, PyTree, jax.Array], tuple[jax.Array, PyTree]]
    learn: Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array | None]]
    observe: Callable[[LearnerState, Trajectory], LearnerState] = lambda state, rollouts: state
    policies: Callable[[PyTree, Trajectory], PyTree] | None = None
    divergence: Callable[[PyTree, PyTree], jax.Array] | None = None
    keep: Callable[[PyTree], PyTree] = lambda carry: carry
