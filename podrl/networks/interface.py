"""All that the rest of podrl knows of networks: pure functions, with parameters as nested dicts."""

from collections.abc import Callable
import dataclasses

from flax import struct
import jax

from podrl.ops.distributions import Distribution
from podrl.types import PyTree, Timestep, Trajectory


@struct.dataclass(kw_only=True)
class NetworkOutput:
    """Heads of an actor-critic network; leading axes as the input's.

    Attributes:
        policy: [..., P] float32; what `Network.policy` takes for parameters, such as logits.
        value: [...] float32.
    """

    policy: jax.Array
    value: jax.Array


def forget_action(carry: PyTree, action: jax.Array) -> PyTree:
    """`Network.remember` of a network that does not see its last action."""
    return carry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """All that the rest of podrl knows of Flax: pure functions, with parameters as nested dicts.

    Attributes:
        policy: the distribution over actions whose parameters it puts out.
        init: (key) -> params.
        initial_carry: (batch_size) -> carry, pytree of [B, ...].
        step: (params, timestep of [B], carry) -> (NetworkOutput of [B, ...], carry).
        remember: (carry, action [B, ...]) -> carry; tells it the action that was chosen after a step.
        unroll: (params, trajectory of [T, B]) -> (NetworkOutput of [T+1, B, ...], carry). Equal to T+1 calls of `step`,
            with `remember` after each but the last; so its carry is that before the action of row T.
        rows: (params, trajectory of [T, B], rows [R, B] int32) -> NetworkOutput of [R, B, ...]: those of the rows 0 to
            T of `unroll` that are named for each environment, in the time and memory of R rows. None if a row's output
            needs that of the rows before it, as in recurrent networks.
    """

    policy: Distribution
    init: Callable[[jax.Array], PyTree]
    initial_carry: Callable[[int], PyTree]
    step: Callable[[PyTree, Timestep, PyTree], tuple[NetworkOutput, PyTree]]
    remember: Callable[[PyTree, jax.Array], PyTree] = forget_action
    unroll: Callable[[PyTree, Trajectory], tuple[NetworkOutput, PyTree]]
    rows: Callable[[PyTree, Trajectory, jax.Array], NetworkOutput] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks that an agent can ask for, all of them for the run's observations and actions.

    Attributes:
        actor_critic: () -> a policy and a value on one encoder.
    """

    actor_critic: Callable[[], Network]
