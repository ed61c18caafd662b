"""Auxiliary losses by a model of latents: imagined latents are to mean what the observed ones do.

A latent is followed along the actions that were taken, K of them. At each step the imagined latent is compared with
that of the row that was observed, through which no gradient flows: by the values of all actions there (VCR), or by the
direction of a projection (SPR). Both evaluate the same network, with the same noise, so what differs is the latent
alone. A step is compared if no episode ended before it, and none terminated with it: the observation behind a
termination has no values. That of a truncation has.

Source: Yue et al. 2023, Value-consistent representation learning for data-efficient reinforcement learning,
arXiv:2206.12542; Schwarzer et al. 2021, Data-efficient reinforcement learning with self-predictive representations,
arXiv:2007.05929, section 2.
"""

from flax import struct
import jax
from jax import numpy as jnp

from podrl.agents.parts.auxiliary import NO_AUXILIARY, Auxiliary, Counts
from podrl.agents.parts.interface import SequenceShape
from podrl.agents.parts.sequences import evaluate_rows, rows_to_learn, transitions_to_learn
from podrl.config.auxiliary import AuxiliaryConfig
from podrl.networks.interface import AtomNetwork, AtomOutput
from podrl.ops.atoms import divergence_of_atoms
from podrl.ops.losses import cross_entropy_loss
from podrl.types import Metrics, PyTree, Sample, Trajectory

_LEAST_SIZE = 1e-2  # Of values, below which differences count as they are.


@struct.dataclass(kw_only=True)
class Imagined:
    """Latents along actions, of R rows and K steps, and what was observed there; [K, B, R, ...], environments first.

    Attributes:
        latent: [K, B, R, F]; imagined.
        observed: `AtomOutput` of [K, B, R, ...]; no gradient flows through it.
        is_known: [K, B, R] bool; whether the step is compared.
    """

    latent: jax.Array
    observed: AtomOutput
    is_known: jax.Array


def make_auxiliary(config: AuxiliaryConfig, network: AtomNetwork, shape: SequenceShape) -> Auxiliary:
    """Returns the auxiliary loss that a config describes.

    Its metrics are `loss/auxiliary`, before its weight, and `value/consistency_gap`, the mean |Q(imagined) -
    Q(observed)| over steps and allowed actions.

    Args:
        config: The section `agent.auxiliary`.
        network: The agent's network, with a model and, for `kind='features'`, a projection.
        shape: The sequences that the agent learns from. Latents are followed from each transition that is learned from,
            as far as the sequence reaches.
    """
    if config.kind == "none":
        return NO_AUXILIARY

    def count(trajectory: Trajectory) -> Counts:
        known = steps_to_compare(config, shape, trajectory)
        sequences = jnp.asarray(trajectory.first.shape[1], jnp.float32)
        return {"steps": jnp.sum(known, dtype=jnp.float32), "sequences": sequences}

    def loss(params: PyTree, extra: PyTree, sample: Sample, counts: Counts) -> tuple[jax.Array, Metrics]:
        imagined = imagine(config, network, shape, params, sample.trajectory)
        compared = network.values(params, imagined.latent)
        if config.kind == "features":
            distance = feature_distance(network, params, imagined)
        else:
            distance = value_distance(config, compared, imagined.observed, extra["value_size"])
        weighted = jnp.where(imagined.is_known, sample.weight[:, None] * distance, 0.0)
        total = jnp.sum(weighted) / counts["sequences"]
        gap = jnp.abs(compared.q_values - imagined.observed.q_values)

        def mean(x: jax.Array) -> jax.Array:
            over_actions = mean_of_allowed(x, imagined.observed)
            return jnp.sum(jnp.where(imagined.is_known, over_actions, 0.0)) / jnp.maximum(counts["steps"], 1)

        return config.weight * total, {
            "loss/auxiliary": total,
            "value/consistency_gap": mean(gap),
            "value/size": mean(jnp.abs(imagined.observed.q_values)),
        }

    def move(extra: PyTree, metrics: Metrics, counts: Counts) -> dict[str, jax.Array]:
        size = extra["value_size"]
        moved = size + config.size_rate * (metrics["value/size"] - size)
        return {"value_size": jnp.where(counts["steps"] > 0, moved, size)}

    return Auxiliary(init=lambda: {"value_size": jnp.ones(())}, count=count, loss=loss, move=move)


def imagine(
    config: AuxiliaryConfig, network: AtomNetwork, shape: SequenceShape, params: PyTree, trajectory: Trajectory
) -> Imagined:
    """Follows the latents of the rows that are learned from along the actions that were taken.

    Args:
        config: The section `agent.auxiliary`; K is `steps`.
        network: The network.
        shape: Says which rows are learned from.
        params: The network's parameters.
        trajectory: [T, B], with the network's carry.
    """
    length = len(trajectory.reward)
    start, stop = rows_to_learn(shape, length)
    num, (opening, ahead) = stop - start, (jnp.arange(start, stop), jnp.arange(start + 1, stop + config.steps))
    batch = trajectory.first.shape[1]

    def numbers(rows: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.minimum(rows, length).astype(jnp.int32)[:, None], (len(rows), batch))

    read = evaluate_rows(network, params, trajectory, start)
    first = jnp.swapaxes(read(numbers(opening)).latent, 0, 1)
    observed = jax.lax.stop_gradient(read(numbers(ahead)))

    def follow(latent: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        latent = network.transition(params, latent, action)
        return latent, latent

    actions = windows(trajectory.action[start:], num, config.steps)
    _, latents = jax.lax.scan(follow, first, actions)
    return Imagined(
        latent=latents,
        observed=jax.tree.map(lambda x: windows(x, num, config.steps), observed),
        is_known=steps_to_compare(config, shape, trajectory),
    )


def steps_to_compare(config: AuxiliaryConfig, shape: SequenceShape, trajectory: Trajectory) -> jax.Array:
    """Returns which steps along actions of [T, B] stay in their episode, and do not terminate it; [K, B, R] bool."""
    start, stop = rows_to_learn(shape, len(trajectory.reward))
    learned = jnp.swapaxes(transitions_to_learn(shape, trajectory)[: stop - start], 0, 1)
    continues = (trajectory.is_transition & (trajectory.discount > 0))[start:]
    return learned & (jnp.cumprod(windows(continues, stop - start, config.steps), axis=0) > 0)


def windows(x: jax.Array, num: int, steps: int) -> jax.Array:
    """Returns rows k to k + `num` of x [T, B, ...] for each k below `steps`, [steps, B, num, ...]; zeros behind T."""
    short = max(num + steps - 1 - len(x), 0)
    padded = jnp.pad(x, ((0, short), *((0, 0),) * (x.ndim - 1)))
    return jnp.stack([jnp.swapaxes(padded[step : step + num], 0, 1) for step in range(steps)])


def value_distance(
    config: AuxiliaryConfig, imagined: AtomOutput, observed: AtomOutput, value_size: jax.Array
) -> jax.Array:
    """Returns the distance of action values, as a mean over the actions that are allowed in the observed row, [...].

    Args:
        config: Says which distance.
        imagined: [...]; the values of imagined latents.
        observed: [...]; those of observed ones, through which no gradient flows.
        value_size: [] the running mean of |Q|.
    """
    if config.distance == "mse":
        scale = jnp.maximum(value_size, _LEAST_SIZE)
        known = jnp.where(jnp.isfinite(observed.q_values), observed.q_values, 0.0)
        return mean_of_allowed(jnp.square((imagined.q_values - known) / scale), observed)
    compare = divergence_of_atoms if config.distance == "kl" else cross_entropy_loss
    return mean_of_allowed(compare(jax.nn.softmax(observed.logits, axis=-1), imagined.logits), observed)


def feature_distance(network: AtomNetwork, params: PyTree, imagined: Imagined) -> jax.Array:
    """Returns the squared distance of the directions of projections, 2 - 2 cos, between 0 and 4.

    Source: Schwarzer et al. 2021, arXiv:2007.05929, equation 3; the sign and a constant aside.
    """
    foreseen = network.predict(params, network.project(params, imagined.latent))
    target = jax.lax.stop_gradient(network.project(params, imagined.observed.latent))
    return 2 - 2 * jnp.sum(_direction(foreseen) * _direction(target), axis=-1)


def mean_of_allowed(x: jax.Array, output: AtomOutput) -> jax.Array:
    """Returns the mean of x [..., A] over the actions that are allowed in an output's rows, [...]."""
    allowed = jnp.isfinite(output.q_values)
    return jnp.sum(jnp.where(allowed, x, 0.0), axis=-1) / jnp.maximum(jnp.sum(allowed, axis=-1), 1)


def _direction(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
