"""The interface of networks: records of pure functions, with parameters as nested dicts."""

from collections.abc import Callable
import dataclasses
from typing import Any, Generic, TypeVar

from flax import struct
import jax
from jax import numpy as jnp

from podrl.networks.model_records import AtomShape, LatentState, ModelOutput, ModelShape
from podrl.ops.distributions import Distribution
from podrl.types import PyTree, Timestep, Trajectory


@struct.dataclass(kw_only=True)
class NetworkOutput:
    """The outputs of an actor-critic network's heads, with the leading axes of its input.

    Attributes:
        policy: [..., P] float32; parameters of the distribution `Network.policy`, such as logits.
        value: [...] float32; value estimates.
    """

    policy: jax.Array
    value: jax.Array


@struct.dataclass(kw_only=True)
class QOutput:
    """The output of a network of action values, with the leading axes of its input.

    Attributes:
        q_values: [..., A] float32; the value of each action, -inf for those that a mask forbids.
    """

    q_values: jax.Array

    @property
    def value(self) -> jax.Array:
        """[...] float32; the value of the best action."""
        return jnp.max(self.q_values, axis=-1)


@struct.dataclass(kw_only=True)
class AtomOutput(QOutput):
    """The output of a network of action values that are means of distributions over atoms.

    Attributes:
        logits: [..., A, N] float32; of each action's distribution, also of those that a mask forbids.
        latent: [..., F] float32; what the head saw.
    """

    logits: jax.Array
    latent: jax.Array


def forget_action(carry: PyTree, action: jax.Array) -> PyTree:
    """Returns the carry unchanged: `Network.remember` of a network that does not see its last action."""
    return carry


Output = TypeVar("Output")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkFunctions(Generic[Output]):
    """A network as pure functions, with parameters as nested dicts; its users need no Flax modules.

    Attributes:
        init: (key) -> params.
        initial_carry: (batch_size) -> carry, pytree of [B, ...].
        step: (params, timestep of [B], carry) -> (output of [B, ...], carry).
        remember: (carry, action [B, ...]) -> carry; stores the action that was chosen after a step.
        unroll: (params, trajectory of [T, B]) -> (output of [T+1, B, ...], carry). Equal to T+1 calls of `step`, with
            `remember` after each except the last, so its carry is that before the action of row T.
        rows: (params, trajectory of [T, B], rows [R, B] int32) -> output of [R, B, ...]: the outputs of `unroll` at the
            given rows, 0 to T, of each environment, in the time and memory of R rows. None if a row's output depends on
            that of the rows before it, as in recurrent networks.
        keep: (carry) -> the carry without what `resume` makes anew: a recurrent core's state, if there is one.
        resume: (result of `keep`, rows before) -> the whole carry. The rows have `observation`, `first` and `action` of
            [R, B, ...], R at least one, and one less than the frames of a stack; the carry is that before the row after
            them, as the actor had it.
    """

    init: Callable[[jax.Array], PyTree]
    initial_carry: Callable[[int], PyTree]
    step: Callable[[PyTree, Timestep, PyTree], tuple[Output, PyTree]]
    remember: Callable[[PyTree, jax.Array], PyTree] = forget_action
    unroll: Callable[[PyTree, Trajectory], tuple[Output, PyTree]]
    rows: Callable[[PyTree, Trajectory, jax.Array], Output] | None = None
    keep: Callable[[PyTree], PyTree] = lambda carry: carry
    resume: Callable[[PyTree, Any], PyTree] = lambda carry, before: carry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network(NetworkFunctions[NetworkOutput]):
    """An actor-critic network.

    Attributes:
        policy: The distribution over actions, whose parameters the network computes.
        scale_value: (params, factor [], shift []) -> params with which values are factor * value + shift; all else that
            the network puts out stays the same.
    """

    policy: Distribution
    scale_value: Callable[[PyTree, jax.Array, jax.Array], PyTree]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyNetwork(NetworkFunctions[jax.Array]):
    """A network of a policy alone, whose output is the policy's parameters [..., P] float32.

    Its parameters are under the name `policy`. Its functions ignore others beside it, such as a `TwinQNetwork`'s.

    Attributes:
        policy: The distribution over actions; None where the network puts out actions before squashing, [..., D].
    """

    policy: Distribution | None

    @property
    def distribution(self) -> Distribution:
        """The distribution over actions.

        Raises:
            ValueError: If the policy is deterministic.
        """
        if self.policy is None:
            raise ValueError("Found a deterministic policy; expected a distribution over actions.")
        return self.policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwinQNetwork:
    """Two networks of the value Q(s, a) of actions that are numbers, with parameters under the name `critic`.

    They see what the policy's network sees, and share its carry.

    Attributes:
        init: (key) -> params.
        rows: (params, trajectory of [T, B], rows [R, B] int32, actions [R, B, S, D]) -> [R, B, S, 2] float32: both
            values of S actions in each of the given rows, 0 to T. None if a row's output depends on that of the rows
            before it.
    """

    init: Callable[[jax.Array], PyTree]
    rows: Callable[[PyTree, Trajectory, jax.Array, jax.Array], jax.Array] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelNetwork(NetworkFunctions[LatentState]):
    """A learned model of the environment, as MuZero has it. Its `step`, `unroll` and `rows` are the representation.

    Attributes:
        policy: The distribution over actions, whose parameters the model predicts.
        transition: (params, latents [..., *], actions [...]) -> the next latents [..., *].
        predict: (params, latents [..., *], mask=None) -> `ModelOutput` of [..., ...]; the policy takes no option that
            the mask [..., L] forbids. Leading axes, here and above, have environments first.
    """

    policy: Distribution
    transition: Callable[[PyTree, jax.Array, jax.Array], jax.Array]
    predict: Callable[..., ModelOutput]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtomNetwork(NetworkFunctions[AtomOutput]):
    """A network of action values as distributions over atoms. Latents are those of its outputs.

    Attributes:
        add_noise: (params, keys [N]) -> params with the noise of its layers, one for each environment [B] that it is
            evaluated in, or a single one for all; the same params if it has no noisy layers.
        values: (params, latents [..., F]) -> `AtomOutput` of [..., ...]. Leading axes have environments first.
        transition: (params, latents [..., F], actions [...]) -> the next latents; for a network with a model.
        project: (params, latents [..., F]) -> what is compared of them, [..., P]; for one with a projection.
        predict: (params, [..., P] of imagined latents) -> that of observed ones.
    """

    add_noise: Callable[[PyTree, jax.Array], PyTree]
    values: Callable[[PyTree, jax.Array], AtomOutput]
    transition: Callable[[PyTree, jax.Array, jax.Array], jax.Array]
    project: Callable[[PyTree, jax.Array], jax.Array]
    predict: Callable[[PyTree, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateValueNetwork:
    """A network of the value V(s) of what the policy's network sees, with parameters under the name `state_value`.

    Attributes:
        init: (key) -> params.
        rows: (params, trajectory of [T, B], rows [R, B] int32) -> [R, B] float32: the values of the given rows, 0 to T.
            None if a row's output depends on that of the rows before it.
    """

    init: Callable[[jax.Array], PyTree]
    rows: Callable[[PyTree, Trajectory, jax.Array], jax.Array] | None


QNetwork = NetworkFunctions[QOutput]
AnyNetwork = TypeVar("AnyNetwork", bound=NetworkFunctions | TwinQNetwork | StateValueNetwork)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks that an agent can ask for, all for the run's observations and actions.

    Attributes:
        actor_critic: () -> a network with a policy head and a value head.
        q: (*, dueling=False, normalization="none") -> a network of action values, for one discrete action; see
            `podrl.networks.action_values`.
        policy: (*, squashed=False, deterministic=False, bounded_mean=False) -> a network of a policy alone; see
            `podrl.networks.continuous`.
        twin_q: () -> two networks of the values of actions that are numbers.
        model: (`ModelShape`) -> a learned model of an environment with one discrete action.
        state_value: () -> a network of the values of states.
        shared: (*, features) -> a deterministic policy's network and a `TwinQNetwork` behind one encoder; see
            `podrl.networks.shared_encoder`.
        atoms: (`AtomShape`) -> a network of action values as distributions, for one discrete action.
    """

    actor_critic: Callable[[], Network]
    q: Callable[..., QNetwork]
    policy: Callable[..., PolicyNetwork]
    twin_q: Callable[[], TwinQNetwork]
    model: Callable[[ModelShape], ModelNetwork]
    state_value: Callable[[], StateValueNetwork]
    shared: Callable[..., tuple[PolicyNetwork, TwinQNetwork]]
    atoms: Callable[[AtomShape], AtomNetwork]

    def map(self, change: Callable[[Any], Any]) -> "Networks":
        """The same networks, each as `change`, (network) -> network, returns it."""
        return Networks(
            actor_critic=lambda: change(self.actor_critic()),
            q=lambda **asked: change(self.q(**asked)),
            policy=lambda **asked: change(self.policy(**asked)),
            twin_q=lambda: change(self.twin_q()),
            model=lambda shape: change(self.model(shape)),
            state_value=lambda: change(self.state_value()),
            shared=lambda **asked: tuple(map(change, self.shared(**asked))),
            atoms=lambda shape: change(self.atoms(shape)),
        )
