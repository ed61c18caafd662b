"""An ensemble of reward models: how its members are evaluated, weighed and trained."""

from typing import NamedTuple

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.preference_labels import Labels, held_out_slots
from podrl.config.rewards import RewardsConfig
from podrl.networks.reward_model import RewardNetwork, RewardOutput, make_reward_network
from podrl.ops.preferences import bradley_terry_loss, confidence_weights, prior_divergence
from podrl.types import EnvSpec, Metrics, PyTree


class Ensemble(NamedTuple):
    """The members' network, and how they are trained and joined."""

    config: RewardsConfig
    network: RewardNetwork

    def init(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Returns parameters and optimizer states of the members, [E, ...]."""
        params = jax.vmap(self.network.init)(jax.random.split(key, self.config.members))
        return params, jax.vmap(self._optimizer.init)(params)

    def evaluate(self, params: PyTree, features: jax.Array) -> RewardOutput:
        """Evaluates all members at the means of their latents; [..., F] -> [E, ...]."""
        return jax.vmap(self.network.evaluate, in_axes=(0, None, None))(params, features, None)

    def weights(self, output: RewardOutput) -> jax.Array:
        """Returns the members' weights [E, ...] in the reward of each row."""
        if self.config.combine == "mean":
            return jnp.full_like(output.reward, 1 / self.config.members)
        return confidence_weights(prior_divergence(output.mean, output.log_deviation))

    def rewards(self, params: PyTree, features: jax.Array) -> jax.Array:
        """Returns the rewards of rows of features; [..., F] -> [...]."""
        output = self.evaluate(params, features)
        return jnp.sum(self.weights(output) * output.reward, axis=0)

    def refit(
        self, params: PyTree, opt_state: PyTree, labels: Labels, key: jax.Array
    ) -> tuple[PyTree, PyTree, Metrics]:
        """Takes the optimizer steps of a round.

        Nothing moves while there is no label to learn from, nor if any number would not be finite.

        Returns:
            Parameters, optimizer states, the means over the members of the last step's loss and divergence, whether
            members `learned`, and whether the refit was skipped as not finite (`skipped_refits`).
        """
        config = self.config
        usable = labels.answered & ~held_out_slots(len(labels.answered), config.held_out)
        slots, num = jnp.argsort(~usable), jnp.sum(usable)

        def step(index: jax.Array, loop: tuple) -> tuple:
            params, opt_state, _ = loop
            keys = jax.random.split(jax.random.fold_in(key, index), config.members)
            return jax.vmap(one, in_axes=(0, 0, 0))(params, opt_state, keys)

        def one(params: PyTree, opt_state: PyTree, key: jax.Array) -> tuple[PyTree, PyTree, jax.Array]:
            draw_key, noise_key = jax.random.split(key)
            chosen = slots[jax.random.randint(draw_key, (config.refit_batch,), 0, jnp.maximum(num, 1))]
            batch = jax.tree.map(lambda x: x[chosen], labels)
            (_, parts), grads = jax.value_and_grad(self.loss, has_aux=True)(params, batch, noise_key)
            updates, moved = self._optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), moved, parts

        start = (params, opt_state, jnp.zeros((config.members, 2)))
        after = jax.lax.fori_loop(0, config.refit_steps, step, start)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(after)]))
        moves = (num > 0) & finite
        params, opt_state, parts = jax.tree.map(lambda new, old: jnp.where(moves, new, old), after, start)
        loss, divergence = jnp.mean(parts, axis=0)
        told = {"loss": loss, "divergence": divergence, "learned": moves, "skipped_refits": (num > 0) & ~finite}
        return params, opt_state, told

    def loss(self, params: PyTree, batch: Labels, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes a member's loss on a batch of labels; returns it, and [2]: cross-entropy and divergence."""
        noise = jax.random.normal(key, (*batch.features.shape[:-1], self.network.latent_size))
        output = self.network.evaluate(params, batch.features, noise)
        entropy = jnp.mean(bradley_terry_loss(jnp.sum(output.reward, axis=-1), batch.preference))
        divergence = jnp.mean(prior_divergence(output.mean, output.log_deviation))
        return entropy + self.config.kl_weight * divergence, jnp.stack([entropy, divergence])

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.refit_learning_rate)


def make_ensemble(config: RewardsConfig, spec: EnvSpec) -> Ensemble:
    """Makes the members of the config for an environment.

    Raises:
        ConfigError: If its observations are no floats.
    """
    network = make_reward_network(
        spec,
        hidden_sizes=config.hidden_sizes,
        decoder_sizes=config.decoder_sizes,
        latent_size=config.latent_size if config.model == "latent" else 0,
        tanh_output=config.tanh_output,
    )
    return Ensemble(config, network)
