"""A reward learned from preferences: an ensemble of reward models, and the rounds that ask, label and refit.

A round draws segments from the replay, asks which of two is better, stores the answers, and takes a fixed number of
optimizer steps of each member on all labels so far. The loss is the cross-entropy of Bradley and Terry's model plus
`kl_weight` times the divergence of the latent from a standard normal. A reward is the mean of the members' rewards at
the means of their latents, weighed by those divergences or equally.

Until a refit has learned from a label, a step's reward is larger the rarer its observation is among those of its batch.
A round that finds no pair of segments uses no place of the label store, so a later one has it.

Source: Lee et al. 2021, PEBBLE, arXiv:2106.05091; Xue et al. 2023, arXiv:2301.11774.
"""

import dataclasses

from flax import struct
import jax
from jax import numpy as jnp
import numpy as np

from podrl.agents.parts.learned_rewards import RewardModel
from podrl.agents.parts.preference_labels import Labels, empty_labels, held_out_slots, write_labels
from podrl.agents.parts.reward_ensemble import Ensemble, make_ensemble
from podrl.config.rewards import RewardsConfig
from podrl.ops.preferences import Teachers, answer_queries, state_entropy_reward
from podrl.types import EnvSpec, Metrics, PyTree, Trajectory


@struct.dataclass(kw_only=True)
class PreferenceState:
    """The state of a reward that is learned from preferences.

    Attributes:
        params: pytree of [E, ...]; the members' parameters.
        opt_state: pytree of [E, ...]; their optimizers' states.
        labels: The labels so far.
        rounds: [] int32; rounds so far that found pairs.
        is_trained: [] bool; whether a refit has learned from a label.
        probe: [P, F]; steps of the first round that learned, on which refits are compared.
        told: The figures of the newest round, scalars by name; `skipped_refits` counts those of all rounds.
    """

    params: PyTree
    opt_state: PyTree
    labels: Labels
    rounds: jax.Array
    is_trained: jax.Array
    probe: jax.Array
    told: dict[str, jax.Array]


FIGURES = (
    *("accuracy", "accuracy_true", "drift", "labels", "skipped", "missed", "wrong", "loss", "divergence"),
    *("latent_spread", "weight_spread", "skipped_refits"),
)


def make_preferences(config: RewardsConfig, spec: EnvSpec) -> RewardModel:
    """Makes a reward that is learned from preferences.

    Args:
        config: The section `rewards`.
        spec: The environment.

    Raises:
        ConfigError: If its observations are no floats.
    """
    ensemble = make_ensemble(config, spec)
    num_features = ensemble.network.num_features

    def init(key: jax.Array) -> PreferenceState:
        params, opt_state = ensemble.init(key)
        return PreferenceState(
            params=params,
            opt_state=opt_state,
            labels=empty_labels(config, num_features),
            rounds=jnp.zeros((), jnp.int32),
            is_trained=jnp.zeros((), bool),
            probe=jnp.zeros((config.probe, num_features)),
            told={f"reward/{name}": jnp.zeros(()) for name in FIGURES},
        )

    def rewards(state: PreferenceState, trajectory: Trajectory) -> jax.Array:
        observation = jax.tree.map(lambda x: x[:-1], trajectory.observation)
        features = ensemble.network.features(observation, trajectory.action)

        def explored() -> jax.Array:
            if not config.neighbours:
                return jnp.zeros_like(trajectory.reward)
            rows = jnp.concatenate(
                [x.reshape(trajectory.reward.size, -1) for x in jax.tree.leaves(observation)], axis=-1
            )
            rarity = state_entropy_reward(rows, config.neighbours, config.neighbour_offset)
            return rarity.reshape(trajectory.reward.shape)

        return jax.lax.cond(state.is_trained, lambda: ensemble.rewards(state.params, features), explored)

    def refit(
        state: PreferenceState, segments: Trajectory, found: jax.Array, update: jax.Array, key: jax.Array
    ) -> PreferenceState:
        return run_round(ensemble, state, segments, found, update, key)

    return RewardModel(init=init, rewards=rewards, tell=lambda state: state.told, refit=refit)


def run_round(
    ensemble: Ensemble,
    state: PreferenceState,
    segments: Trajectory,
    found: jax.Array,
    update: jax.Array,
    key: jax.Array,
) -> PreferenceState:
    """Asks about segments, stores the answers and refits.

    Args:
        ensemble: The members.
        state: Their state.
        segments: [L, N] raw; candidates.
        found: [N] bool; which of them can be asked about.
        update: [] int32; the update after which the round comes.
        key: A typed PRNG key; consumed.
    """
    *ask_keys, refit_key = jax.random.split(key, 3)
    observation = jax.tree.map(lambda x: x[:-1], segments.observation)
    features = jnp.swapaxes(ensemble.network.features(observation, segments.action), 0, 1)
    pairs, usable = choose_pairs(ensemble, state.params, features, found, ask_keys[0])
    new = _ask(ensemble, features[pairs], jnp.swapaxes(segments.reward, 0, 1)[pairs], ask_keys[1])
    skipped = usable & ~new.answered
    update = jnp.broadcast_to(update.astype(jnp.int32), new.teacher.shape)
    new = dataclasses.replace(new, answered=new.answered & usable, update=update)
    found_pairs = jnp.any(usable)
    written = write_labels(state.labels, new, state.rounds)
    labels = jax.tree.map(lambda after, before: jnp.where(found_pairs, after, before), written, state.labels)
    probe = jnp.where(state.is_trained, state.probe, choose_probe(features, found, len(state.probe)))
    params, opt_state, told = ensemble.refit(state.params, state.opt_state, labels, refit_key)
    told = {
        **told,
        **_figures(ensemble, state.params, params, labels, probe),
        "skipped": jnp.sum(skipped),
        "missed": jnp.sum(~usable),
        "skipped_refits": state.told["reward/skipped_refits"] + told["skipped_refits"],
    }
    return dataclasses.replace(
        state,
        params=params,
        opt_state=opt_state,
        labels=labels,
        rounds=state.rounds + found_pairs,
        is_trained=state.is_trained | told["learned"],
        probe=probe,
        told={f"reward/{name}": told[name].astype(jnp.float32) for name in FIGURES},
    )


def _ask(ensemble: Ensemble, features: jax.Array, true_rewards: jax.Array, key: jax.Array) -> Labels:
    """Asks about pairs of segments, [Q, 2, L, F], with the environment's rewards [Q, 2, L]; `update` is left 0."""
    teachers = Teachers(**{name: jnp.array(values) for name, values in ensemble.config.of_teachers().items()})
    teacher, preference, answered = answer_queries(teachers, true_rewards, key)
    return Labels(
        features=features,
        preference=preference,
        answered=answered,
        teacher=teacher,
        update=jnp.zeros_like(teacher),
        margin=jnp.sum(true_rewards[:, 1] - true_rewards[:, 0], axis=-1),
    )


def choose_probe(features: jax.Array, found: jax.Array, num: int) -> jax.Array:
    """Returns steps of the segments that were found, [P, F], evenly spread; any steps if there is none.

    Args:
        features: [N, L, F] of all segments.
        found: [N] bool.
        num: P.
    """
    steps = features[jnp.argsort(~found)].reshape(-1, features.shape[-1])
    total = jnp.maximum(jnp.sum(found) * features.shape[1], 1)
    return steps[jnp.arange(num) * jnp.maximum(total // num, 1) % total]


def choose_pairs(
    ensemble: Ensemble, params: PyTree, features: jax.Array, found: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Chooses the pairs of segments that a round asks about.

    Returns:
        [Q, 2] int32, the numbers of the segments, and whether both were found, [Q] bool.
    """
    num = len(found) // 2
    order = jax.random.permutation(key, len(found))
    pairs = order[jnp.argsort(~found[order])][: 2 * num].reshape(num, 2)
    usable = jnp.all(found[pairs], axis=-1)
    score = usable.astype(jnp.float32)
    if ensemble.config.selection == "disagreement":
        returns = jnp.sum(ensemble.evaluate(params, features).reward, axis=-1)[:, pairs]
        score *= 1 + jnp.std(jax.nn.sigmoid(returns[..., 1] - returns[..., 0]), axis=0)
    chosen = jax.lax.top_k(score, ensemble.config.queries)[1]
    return pairs[chosen], usable[chosen]


def _figures(ensemble: Ensemble, before: PyTree, params: PyTree, labels: Labels, probe: jax.Array) -> Metrics:
    """Computes the figures of a round: on labels that were held out, on all of them, and on the probe's steps."""
    output = ensemble.evaluate(params, probe)
    weights = ensemble.weights(output)
    after = jnp.sum(weights * output.reward, axis=0)
    tells, says = labels.answered & (labels.preference != 0.5), labels.preference - 0.5
    slots = np.flatnonzero(held_out_slots(len(tells), ensemble.config.held_out))
    held, margin = tells[slots], labels.margin[slots]
    returns = jnp.sum(ensemble.rewards(params, labels.features[slots]), axis=-1)
    learned = returns[:, 1] - returns[:, 0]
    return {
        "accuracy": _share(learned * says[slots] > 0, held),
        "accuracy_true": _share(learned * margin > 0, held & (margin != 0)),
        "wrong": _share(labels.margin * says < 0, tells),
        "labels": jnp.sum(labels.answered),
        "drift": jnp.std(after - ensemble.rewards(before, probe)),
        "latent_spread": jnp.mean(jnp.std(output.mean, axis=1)) if output.mean.size else jnp.zeros(()),
        "weight_spread": jnp.mean(jnp.std(weights, axis=0)),
    }


def _share(what: jax.Array, among: jax.Array) -> jax.Array:
    return jnp.sum(what & among) / jnp.maximum(jnp.sum(among), 1)
