"""A plain training loop to measure Anakin against: PPO as one function of one file, in the manner of PureJaxRL.

One jitted program scans over updates; each scans over steps of Gymnax's own, vectorised and self-resetting
environments, computes advantages, and takes epochs of shuffled minibatches. It keeps to podrl's config where speed
depends on it: network, environments, unroll length, epochs, minibatches and optimizer. It counts no episodes, reports
no metrics, saves nothing, and confuses time limits with ends: what it leaves out is what podrl has to do beside.

Source: Lu et al. 2022 (PureJaxRL), https://github.com/luchris429/purejaxrl; Schulman et al. 2017 (PPO),
arXiv:1707.06347.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp
import optax

from podrl.actions import DiscreteActions
from podrl.config.config import Config
from podrl.networks.actor_critic import make_actor_critic
from podrl.networks.interface import Network
from podrl.ops.distributions import Distribution
from podrl.ops.losses import clipped_surrogate_loss, clipped_value_loss
from podrl.ops.returns import gae
from podrl.performance.benchmark.instruments import Clocks, StageTime
from podrl.performance.benchmark.stages import Parts
from podrl.types import Array, PyTree, Timestep

_CLIP, _VALUE_COST, _ENTROPY_COST = 0.2, 0.5, 0.01


def open_plain_loop(parts: Parts) -> Callable[[float], StageTime] | None:
    """Returns what times the plain loop; None where the run has something that the loop has not.

    That is another source than Gymnax, a carry in the network, or actions that are not discrete.
    """
    make_plain = parts.source.make_plain
    network = make_actor_critic(parts.config.network, parts.spec)
    has_carry = bool(jax.tree.leaves(jax.eval_shape(lambda: network.initial_carry(1))))
    if make_plain is None or has_carry or not isinstance(parts.spec.actions, DiscreteActions):
        return None
    return make_plain_loop(parts.config, network, *make_plain(parts.config.env))


def make_plain_loop(
    config: Config, network: Network, env: Any, params: Any, encode: Callable[[Array], Array]
) -> Callable[[float], StageTime]:
    """Compiles the loop, and returns what times it for about as many seconds."""
    agent, num_envs, length = config.agent, config.actors.num_envs, config.actors.unroll_length
    shape, num_updates = agent.update_shape, config.topology.updates_per_call
    optimizer = optax.chain(
        optax.clip_by_global_norm(agent.optimizer.max_grad_norm), optax.adam(agent.optimizer.learning_rate, eps=1e-5)
    )
    policy = network.policy

    def evaluate(weights: PyTree, observation: Array) -> tuple[Array, Array]:
        rows = jnp.zeros(observation.shape[0])
        timestep = Timestep(observation=jax.vmap(encode)(observation), reward=rows, discount=rows, first=rows > 0)
        output, _ = network.step(weights, timestep, network.initial_carry(observation.shape[0]))
        return output.policy, output.value

    learn = _make_learn(evaluate, policy, optimizer)

    act = _make_act(config, evaluate, policy, env, params)

    def update(loop: PyTree, _: None) -> tuple[PyTree, None]:
        learning, envs, key = loop
        key, act_key, epoch_key = jax.random.split(key, 3)
        act_keys = jax.random.split(act_key, length)
        envs, steps = jax.lax.scan(lambda envs, key: act(learning[0], envs, key), envs, act_keys)
        values = jnp.append(steps["value"], evaluate(learning[0], envs[0])[1][None], axis=0)
        rewards, discounts = steps.pop("reward"), steps.pop("discount")
        steps["advantage"] = gae(values, rewards, discounts, jnp.ones_like(rewards, bool))
        flat = jax.tree.map(lambda x: x.reshape(length * num_envs, *x.shape[2:]), steps)

        def epoch(learning: PyTree, key: Array) -> tuple[PyTree, None]:
            order = jax.random.permutation(key, length * num_envs)
            parts = jax.tree.map(lambda x: x[order].reshape(shape.minibatches, -1, *x.shape[1:]), flat)
            return jax.lax.scan(learn, learning, parts)

        learning, _ = jax.lax.scan(epoch, learning, jax.random.split(epoch_key, shape.epochs))
        return (learning, envs, key), None

    def init(key: Array) -> PyTree:
        params_key, env_key, key = jax.random.split(key, 3)
        weights = network.init(params_key)
        envs = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(env_key, num_envs), params)
        return (weights, optimizer.init(weights)), envs, key

    run = jax.jit(lambda loop: jax.lax.scan(update, loop, length=num_updates)[0], donate_argnums=0)
    loop = jax.block_until_ready(run(jax.jit(init)(jax.random.key(config.seed))))

    return _make_timer(run, loop, num_updates * num_envs * length)


def _make_learn(
    evaluate: Callable[[PyTree, Array], tuple[Array, Array]],
    policy: Distribution,
    optimizer: optax.GradientTransformation,
) -> Callable[[tuple[PyTree, PyTree], PyTree], tuple[tuple[PyTree, PyTree], None]]:
    """Returns one optimizer step on a minibatch, as a scan's body."""

    def loss(weights: PyTree, batch: PyTree) -> Array:
        logits, values = evaluate(weights, batch["observation"])
        ratio = jnp.exp(policy.log_prob(logits, batch["action"]) - batch["log_prob"])
        advantages = (batch["advantage"] - batch["advantage"].mean()) / (batch["advantage"].std() + 1e-8)
        error = clipped_value_loss(values, batch["value"], batch["value"] + batch["advantage"], _CLIP)
        bonus = _ENTROPY_COST * policy.entropy(logits)
        return (clipped_surrogate_loss(ratio, advantages, _CLIP) + _VALUE_COST * error - bonus).mean()

    def learn(learning: tuple[PyTree, PyTree], batch: PyTree) -> tuple[tuple[PyTree, PyTree], None]:
        weights, opt_state = learning
        updates, opt_state = optimizer.update(jax.grad(loss)(weights, batch), opt_state, weights)
        return (optax.apply_updates(weights, updates), opt_state), None

    return learn


def _make_act(
    config: Config,
    evaluate: Callable[[PyTree, Array], tuple[Array, Array]],
    policy: Distribution,
    env: Any,
    params: Any,
) -> Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]]:
    """Returns one step of every environment."""
    num_envs = config.actors.num_envs

    def act(weights: PyTree, envs: PyTree, key: Array) -> tuple[PyTree, PyTree]:
        observation, env_state = envs
        act_key, env_key = jax.random.split(key)
        logits, value = evaluate(weights, observation)
        action = policy.sample(jax.random.split(act_key, num_envs), logits)
        step = jax.vmap(env.step, in_axes=(0, 0, 0, None))
        after, env_state, reward, terminated, truncated, _ = step(
            jax.random.split(env_key, num_envs), env_state, action, params
        )
        going_on, log_prob = 1.0 - (terminated | truncated), policy.log_prob(logits, action)
        taken = {"observation": observation, "action": action, "log_prob": log_prob, "value": value}
        return (after, env_state), taken | {
            "reward": reward.astype(jnp.float32),
            "discount": config.agent.discount * going_on,
        }

    return act


def _make_timer(run: Callable[[PyTree], PyTree], loop: PyTree, env_steps_per_run: int) -> Callable[[float], StageTime]:
    """Returns what runs the loop for about as many seconds, and times it."""

    def time_loop(seconds: float) -> StageTime:
        nonlocal loop
        start, env_steps = Clocks.now(), 0
        while not env_steps or Clocks.now().wall_s < start.wall_s + seconds:
            loop = jax.block_until_ready(run(loop))
            env_steps += env_steps_per_run
        return start.sample(env_steps, Clocks.now())

    return time_loop
