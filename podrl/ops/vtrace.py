"""V-trace: off-policy correction for an actor that lags behind its learner.

An actor's trajectory comes from slightly older parameters than those being trained. V-trace weights each temporal
difference by how likely the trained policy was to act the same way, and clips the weights, so that the variance stays
bounded while the fixed point stays near the trained policy's value.
"""

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass(kw_only=True)
class VTrace:
    """The results of V-trace.

    Attributes:
        targets: [T, B] float32; targets of the value estimates of rows 0 to T-1.
        advantages: [T, B] float32; weights of the policy gradient, clipped importance ratio included.
    """

    targets: jax.Array
    advantages: jax.Array


def vtrace(
    values: jax.Array,
    rewards: jax.Array,
    discounts: jax.Array,
    rhos: jax.Array,
    *,
    lambda_: float = 1.0,
    clip_rho: float = 1.0,
    clip_pg_rho: float = 1.0,
) -> VTrace:
    """V-trace value targets and policy-gradient advantages.

    Corrects n-step returns for the gap between the policy that acted and the one being trained, by clipping the
    importance ratios: `clip_rho` decides which fixed point the values move to, the trace (`lambda_` times the ratio
    clipped at one) only how fast. With ratios of one and `lambda_=1` this is the n-step return. Advantages bootstrap
    from the next row's target, whatever `lambda_` is (rlax mixes target and value there; equal at `lambda_=1`).

    Args:
        values: [T+1, B] estimates under the policy being trained; the last row bootstraps.
        rewards: [T, B] in the units of the return, after any clipping by the agent.
        discounts: [T, B] in [0, 1]; zero where the episode terminated and on reset rows, not where it was truncated.
        rhos: [T, B] target over behaviour probability of the action taken, not yet clipped; zero on reset rows.
        lambda_: The decay of the trace per step, in [0, 1].
        clip_rho: The largest ratio in the temporal differences (rho-bar in the paper).
        clip_pg_rho: The largest ratio in the advantages.

    Returns:
        VTrace with `targets` [T, B] and `advantages` [T, B]; no gradient flows through either.

    Source: Espeholt et al. 2018, arXiv:1802.01561, section 4.1.
    """
    values, rewards, discounts, rhos = jax.lax.stop_gradient((values, rewards, discounts, rhos))
    v_tm1, v_t = values[:-1], values[1:]
    deltas = jnp.minimum(rhos, clip_rho) * (rewards + discounts * v_t - v_tm1)
    traces = discounts * lambda_ * jnp.minimum(rhos, 1.0)

    def accumulate(correction_t: jax.Array, row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, trace = row
        correction_tm1 = delta + trace * correction_t
        return correction_tm1, correction_tm1

    _, corrections = jax.lax.scan(accumulate, jnp.zeros_like(values[-1]), (deltas, traces), reverse=True)
    targets = v_tm1 + corrections
    targets_t = jnp.concatenate([targets[1:], values[-1:]])
    advantages = jnp.minimum(rhos, clip_pg_rho) * (rewards + discounts * targets_t - v_tm1)
    return VTrace(targets=targets, advantages=advantages)
