"""How agents take optimizer steps: by their config's optimizer, with a learning rate over the run."""

from collections.abc import Callable
import dataclasses

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.interface import UpdateShape
from podrl.config.optimizer import OptimizerConfig
from podrl.ops.optimizers import make_adam, make_adamw, make_radam, make_rmsprop, rate_over_run, warm_up
from podrl.types import LearnerState, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOverRun:
    """An optimizer whose learning rate follows a schedule over the run.

    Attributes:
        at: (updates done []) -> the optimizer for the next update's steps. Its state is the same at every update.
        rate: (updates done []) -> [] float32; the learning rate of the next update's first step.
    """

    at: Callable[[jax.Array], optax.GradientTransformation]
    rate: Callable[[jax.Array], jax.Array]

    def init(self, params: PyTree) -> optax.OptState:
        """Returns a fresh state of the optimizer."""
        return self.at(jnp.zeros((), jnp.int32)).init(params)

    def apply(self, state: LearnerState, grads: PyTree) -> tuple[LearnerState, jax.Array]:
        """Takes one step; returns the state after it, and the gradient's global norm before clipping."""
        params, opt_state = self.move(state.step, state.params, state.opt_state, grads)
        return dataclasses.replace(state, params=params, opt_state=opt_state), optax.tree.norm(grads)

    def move(
        self, step: jax.Array, params: PyTree, opt_state: optax.OptState, grads: PyTree
    ) -> tuple[PyTree, optax.OptState]:
        """Takes one step of some of an agent's parameters, in the update behind `step` others; returns both new."""
        updates, opt_state = self.at(step).update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def make_optimizer(
    config: OptimizerConfig, shape: UpdateShape, *, num_updates: int, ahead: float = 0.0, by_updates: bool = False
) -> OptimizerOverRun:
    """Makes the optimizer that `config` describes.

    Args:
        config: The optimizer's section.
        shape: Says how many optimizer steps an update takes.
        num_updates: Number of the run's last update, where the learning rate has fallen to zero if it decays.
        ahead: See `podrl.ops.optimizers.share_left`.
        by_updates: Whether the learning rate goes by updates alone, for agents whose updates may call `learn` several
            times.
    """
    steady_rate_at = rate_over_run(
        config.learning_rate,
        decays=config.learning_rate_decay,
        num_updates=num_updates,
        steps_per_update=shape.optimizer_steps,
        ahead=ahead,
        by_updates=by_updates,
    )
    rate_at = warm_up(steady_rate_at, config.warmup_updates)

    def at(step: jax.Array) -> optax.GradientTransformation:
        if config.name in ("adam", "radam"):
            make = make_adam if config.name == "adam" else make_radam
            return make(rate_at(step), epsilon=config.epsilon, max_grad_norm=config.max_grad_norm)
        if config.name == "adamw":
            return make_adamw(
                rate_at(step),
                epsilon=config.epsilon,
                weight_decay=config.weight_decay,
                max_grad_norm=config.max_grad_norm,
            )
        return make_rmsprop(
            rate_at(step),
            decay=config.rmsprop_decay,
            epsilon=config.epsilon,
            epsilon_inside_root=config.epsilon_inside_root,
            max_grad_norm=config.max_grad_norm,
        )

    def rate(step: jax.Array) -> jax.Array:
        found = rate_at(step)
        return jnp.asarray(found(step * shape.optimizer_steps) if callable(found) else found, jnp.float32)

    return OptimizerOverRun(at=at, rate=rate)
