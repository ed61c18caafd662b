"""A plain training loop to measure Anakin against: PPO as one function of one file, in the manner of PureJaxRL.

One jitted program scans over updates; each scans over steps of Gymnax's own, vectorised and self-resetting
environments, computes advantages, and takes epochs of shuffled minibatches. It keeps to podrl's config where speed
depends on it: network, environments, unroll length, epochs, minibatches and optimizer. It counts no episodes, reports
no metrics, saves nothing, and confuses time limits with ends: what it leaves out is what podrl has to do beside.

Source: Lu et al. 2022 (PureJaxRL), https://github.com/luchris429/purejaxrl; Schulman et al. 2017 (PPO),
arXiv:1707.06347.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import optax

from podrl.actions import DiscreteActions
from podrl.config.config import Config
from podrl.networks.actor_critic import make_actor_critic
from podrl.networks.interface import Network
from podrl.performance.benchmark.instruments import Clocks, StageTime
from podrl.performance.benchmark.stages import Parts
from podrl.types import Array, PyTree, Timestep

_CLIP, _TRACE, _VALUE_COST, _ENTROPY_COST = 0.2, 0.95, 0.5, 0.01


class _Step(NamedTuple):
    observation: Array
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    done: Array


class _Loop(NamedTuple):
    params: PyTree
    opt_state: PyTree
    env_state: PyTree
    observation: Array
    key: Array


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
    shape, discount = agent.update_shape, agent.discount
    optimizer = optax.chain(
        optax.clip_by_global_norm(agent.optimizer.max_grad_norm), optax.adam(agent.optimizer.learning_rate, eps=1e-5)
    )
    policy = network.policy
    reset = jax.vmap(env.reset, in_axes=(0, None))
    step = jax.vmap(env.step, in_axes=(0, 0, 0, None))

    def evaluate(params: PyTree, observation: Array) -> tuple[Array, Array]:
        rows = jnp.zeros(observation.shape[0])
        timestep = Timestep(observation=jax.vmap(encode)(observation), reward=rows, discount=rows, first=rows > 0)
        output, _ = network.step(params, timestep, network.initial_carry(observation.shape[0]))
        return output.policy, output.value

    def loss(params: PyTree, batch: tuple[_Step, Array, Array]) -> Array:
        steps, advantages, targets = batch
        logits, values = evaluate(params, steps.observation)
        log_probs = policy.log_prob(logits, steps.action)
        ratio = jnp.exp(log_probs - steps.log_prob)
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - _CLIP, 1 + _CLIP) * advantages).mean()
        clipped = steps.value + jnp.clip(values - steps.value, -_CLIP, _CLIP)
        error = 0.5 * jnp.maximum(jnp.square(values - targets), jnp.square(clipped - targets)).mean()
        return -gain + _VALUE_COST * error - _ENTROPY_COST * policy.entropy(logits).mean()

    def act(loop: _Loop, _: None) -> tuple[_Loop, _Step]:
        key, act_key, env_key = jax.random.split(loop.key, 3)
        logits, value = evaluate(loop.params, loop.observation)
        action = policy.sample(jax.random.split(act_key, num_envs), logits)
        observation, env_state, reward, terminated, truncated, _ = step(
            jax.random.split(env_key, num_envs), loop.env_state, action, params
        )
        done, log_prob = terminated | truncated, policy.log_prob(logits, action)
        taken = _Step(loop.observation, action, log_prob, value, reward.astype(jnp.float32), done)
        return loop._replace(env_state=env_state, observation=observation, key=key), taken

    def advantage(after: Any, taken: _Step) -> tuple[Any, Array]:
        later, next_value = after
        going_on = 1.0 - taken.done
        found = taken.reward + discount * next_value * going_on - taken.value + discount * _TRACE * going_on * later
        return (found, taken.value), found

    def learn(learning: tuple[PyTree, PyTree], batch: Any) -> tuple[tuple[PyTree, PyTree], None]:
        params, opt_state = learning
        updates, opt_state = optimizer.update(jax.grad(loss)(params, batch), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def update(loop: _Loop, _: None) -> tuple[_Loop, None]:
        loop, steps = jax.lax.scan(act, loop, length=length)
        _, last_value = evaluate(loop.params, loop.observation)
        last: Any = (jnp.zeros(num_envs), last_value)
        _, advantages = jax.lax.scan(advantage, last, steps, reverse=True)
        batch = (steps, advantages, advantages + steps.value)
        flat = jax.tree.map(lambda x: x.reshape(length * num_envs, *x.shape[2:]), batch)

        def epoch(learning: tuple[PyTree, PyTree], key: Array) -> tuple[tuple[PyTree, PyTree], None]:
            order = jax.random.permutation(key, length * num_envs)
            parts = jax.tree.map(lambda x: x[order].reshape(shape.minibatches, -1, *x.shape[1:]), flat)
            return jax.lax.scan(learn, learning, parts)

        key, epoch_key = jax.random.split(loop.key)
        (new_params, opt_state), _ = jax.lax.scan(
            epoch, (loop.params, loop.opt_state), jax.random.split(epoch_key, shape.epochs)
        )
        return loop._replace(params=new_params, opt_state=opt_state, key=key), None

    def init(key: Array) -> _Loop:
        params_key, env_key, key = jax.random.split(key, 3)
        weights = network.init(params_key)
        observation, env_state = reset(jax.random.split(env_key, num_envs), params)
        return _Loop(weights, optimizer.init(weights), env_state, observation, key)

    num_updates = config.topology.updates_per_call
    run = jax.jit(lambda loop: jax.lax.scan(update, loop, length=num_updates)[0], donate_argnums=0)
    loop = jax.jit(init)(jax.random.key(config.seed))
    loop = jax.block_until_ready(run(loop))

    def time_loop(seconds: float) -> StageTime:
        nonlocal loop
        start, env_steps = Clocks.now(), 0
        while not env_steps or Clocks.now().wall_s < start.wall_s + seconds:
            loop = jax.block_until_ready(run(loop))
            env_steps += num_updates * num_envs * length
        return start.sample(env_steps, Clocks.now())

    return time_loop
