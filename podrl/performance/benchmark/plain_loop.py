"""A plain training loop to measure Anakin against: one function of one file, in the manner of PureJaxRL.

One jitted program scans over updates; each scans over steps of Gymnax's own, vectorised and self-resetting
environments, and learns. It keeps to podrl's config where speed depends on it: network, environments, unroll length,
epochs, minibatches, replay and optimizer. It counts no episodes, reports no metrics, saves nothing, and confuses time
limits with ends: what it leaves out is what podrl has to do beside.

Agents with a policy are measured against PPO, PQN against PQN, and Ape-X (`r2d2` on single steps) against double
Q-learning from a ring of steps that are all drawn alike: no priorities, and the target network of the update before.

Source: Lu et al. 2022 (PureJaxRL), https://github.com/luchris429/purejaxrl; Schulman et al. 2017 (PPO),
arXiv:1707.06347; Gallici et al. 2024 (PQN), arXiv:2407.04811; Horgan et al. 2018 (Ape-X), arXiv:1803.00933.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import optax

from podrl.actions import DiscreteActions
from podrl.config.config import Config
from podrl.loops.interface import Assembly
from podrl.networks.available import make_networks
from podrl.ops.distributions import Distribution
from podrl.ops.losses import clipped_surrogate_loss, clipped_value_loss, value_loss
from podrl.ops.q_values import double_q_value, epsilon_greedy, value_of_action
from podrl.ops.returns import gae
from podrl.performance.benchmark.instruments import StageTime, time_calls
from podrl.types import Array, PyTree, Timestep

_CLIP, _VALUE_COST, _ENTROPY_COST, _EPSILON = 0.2, 0.5, 0.01, 0.1

_Evaluate = Callable[[PyTree, Array], tuple[Array, Array]]  # (weights, observations) -> logits or Q values, and values
_Learning = tuple[PyTree, PyTree]  # weights and the optimizer's state
_Step = Callable[[_Learning, PyTree], tuple[_Learning, None]]


class _Algorithm(NamedTuple):
    """What loops differ in."""

    choose: Callable[[Array, Array], tuple[Array, dict[str, Array]]]  # (key, evaluation) -> actions, what to record
    loss: Callable[[PyTree, PyTree], Array]  # (weights, minibatch)
    begin: Callable[[PyTree], PyTree]  # (steps of an update) -> what is kept between updates
    # (step, learning, steps, values with those of the last row, what is kept, key) -> learning, and what is kept
    learn: Callable[[_Step, _Learning, PyTree, Array, PyTree, Array], tuple[_Learning, PyTree]]


def open_plain_loop(assembly: Assembly) -> Callable[[float], StageTime] | None:
    """Returns what times the plain loop; None where the run has something that the loop has not.

    That is another source than Gymnax, a carry in the network, sequences of more than one step, or actions that are not
    discrete.
    """
    config, make_plain = assembly.config, assembly.source.make_plain
    if make_plain is None or not isinstance(assembly.spec.actions, DiscreteActions):
        return None
    networks, name = make_networks(config.network, assembly.spec), config.agent.name
    if name == "r2d2" and (config.agent.starts, config.agent.length) != ("rows", 1):
        return None
    make: Callable[[Config, _Evaluate], _Algorithm]
    if name == "r2d2":
        network: Any = networks.q(dueling=config.agent.dueling)
        make = _make_apex
    elif name == "pqn":
        network, make = networks.q(normalization=config.agent.normalization), _make_pqn
    else:
        network = networks.actor_critic()
        make = functools.partial(_make_ppo, policy=network.policy)
    if jax.tree.leaves(jax.eval_shape(lambda: network.initial_carry(1))):
        return None
    env, params, encode = make_plain(config.env)

    def evaluate(weights: PyTree, observation: Array) -> tuple[Array, Array]:
        rows = jnp.zeros(observation.shape[0])
        timestep = Timestep(observation=jax.vmap(encode)(observation), reward=rows, discount=rows, first=rows > 0)
        output, _ = network.step(weights, timestep, network.initial_carry(observation.shape[0]))
        return (output.q_values if name in ("pqn", "r2d2") else output.policy), output.value

    return _make_plain_loop(config, make(config, evaluate), evaluate, network.init, env, params)


def _make_plain_loop(
    config: Config, algorithm: _Algorithm, evaluate: _Evaluate, init: Callable[[Array], PyTree], env: Any, params: Any
) -> Callable[[float], StageTime]:
    """Compiles the loop, and returns what times it for about as many seconds."""
    agent, num_envs, length = config.agent, config.actors.num_envs, config.actors.unroll_length
    num_updates = config.topology.updates_per_call
    optimizer = optax.chain(
        optax.clip_by_global_norm(agent.optimizer.max_grad_norm), optax.adam(agent.optimizer.learning_rate, eps=1e-5)
    )

    def learn_step(learning: _Learning, batch: PyTree) -> tuple[_Learning, None]:
        weights, opt_state = learning
        updates, opt_state = optimizer.update(jax.grad(algorithm.loss)(weights, batch), opt_state, weights)
        return (optax.apply_updates(weights, updates), opt_state), None

    def act(weights: PyTree, envs: PyTree, key: Array) -> tuple[PyTree, PyTree]:
        observation, env_state = envs
        act_key, env_key = jax.random.split(key)
        scores, value = evaluate(weights, observation)
        action, recorded = algorithm.choose(act_key, scores)
        step = jax.vmap(env.step, in_axes=(0, 0, 0, None))
        after, env_state, reward, terminated, truncated, _ = step(
            jax.random.split(env_key, num_envs), env_state, action, params
        )
        result = {"reward": reward.astype(jnp.float32), "discount": agent.discount * (1.0 - (terminated | truncated))}
        return (after, env_state), {"observation": observation, "action": action, "value": value, **recorded, **result}

    def unroll(learning: _Learning, envs: PyTree, key: Array) -> tuple[PyTree, PyTree]:
        return jax.lax.scan(lambda envs, key: act(learning[0], envs, key), envs, jax.random.split(key, length))

    def update(loop: PyTree, _: None) -> tuple[PyTree, None]:
        learning, envs, kept, key = loop
        key, act_key, learn_key = jax.random.split(key, 3)
        envs, steps = unroll(learning, envs, act_key)
        values = jnp.append(steps["value"], evaluate(learning[0], envs[0])[1][None], axis=0)
        learning, kept = algorithm.learn(learn_step, learning, steps, values, kept, learn_key)
        return (learning, envs, kept, key), None

    def begin(key: Array) -> PyTree:
        params_key, env_key, key = jax.random.split(key, 3)
        weights = init(params_key)
        envs = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(env_key, num_envs), params)
        learning = weights, optimizer.init(weights)
        return learning, envs, algorithm.begin(jax.eval_shape(unroll, learning, envs, key)[1]), key

    run = jax.jit(lambda loop: jax.lax.scan(update, loop, length=num_updates)[0], donate_argnums=0)
    loop = jax.block_until_ready(run(jax.jit(begin)(jax.random.key(config.seed))))
    return _make_timer(run, loop, num_updates * num_envs * length)


def _make_ppo(config: Config, evaluate: _Evaluate, policy: Distribution) -> _Algorithm:
    def choose(key: Array, logits: Array) -> tuple[Array, dict[str, Array]]:
        action = policy.sample(jax.random.split(key, len(logits)), logits)
        return action, {"log_prob": policy.log_prob(logits, action)}

    def loss(weights: PyTree, batch: PyTree) -> Array:
        logits, values = evaluate(weights, batch["observation"])
        ratio = jnp.exp(policy.log_prob(logits, batch["action"]) - batch["log_prob"])
        advantages = (batch["advantage"] - batch["advantage"].mean()) / (batch["advantage"].std() + 1e-8)
        error = clipped_value_loss(values, batch["value"], batch["value"] + batch["advantage"], _CLIP)
        bonus = _ENTROPY_COST * policy.entropy(logits)
        return (clipped_surrogate_loss(ratio, advantages, _CLIP) + _VALUE_COST * error - bonus).mean()

    return _Algorithm(choose, loss, lambda steps: (), _in_epochs(config))


def _make_pqn(config: Config, evaluate: _Evaluate) -> _Algorithm:
    def loss(weights: PyTree, batch: PyTree) -> Array:
        taken = value_of_action(evaluate(weights, batch["observation"])[0], batch["action"])
        return value_loss(taken, batch["value"] + batch["advantage"]).mean()

    return _Algorithm(_explore, loss, lambda steps: (), _in_epochs(config))


def _make_apex(config: Config, evaluate: _Evaluate) -> _Algorithm:
    length, num_envs, num_steps = config.actors.unroll_length, config.actors.num_envs, config.agent.n_steps
    rows = -(-config.replay.capacity // (num_envs * length)) * length

    def loss(weights: PyTree, batch: PyTree) -> Array:
        slow, selector = (evaluate(which, batch["after"])[0] for which in (batch["target"], weights))
        target = batch["reward"] + batch["discount"] * double_q_value(slow, jax.lax.stop_gradient(selector))
        return value_loss(value_of_action(evaluate(weights, batch["observation"])[0], batch["action"]), target).mean()

    def begin(steps: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), steps), jnp.zeros((), jnp.int32)

    def learn(
        step: _Step, learning: _Learning, steps: PyTree, values: Array, kept: PyTree, key: Array
    ) -> tuple[_Learning, PyTree]:
        ring, row = kept
        write = lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, row % rows, axis=0)  # noqa: E731
        ring, target = jax.tree.map(write, ring, steps), learning[0]

        def learn_one(learning: _Learning, key: Array) -> tuple[_Learning, None]:
            filled = jnp.minimum(row + length, rows) - num_steps
            at, env = jax.random.randint(key, (2, config.replay.batch), 0, jnp.array([[filled], [num_envs]]))
            taken = {name: ring[name][at, env] for name in ("observation", "action", "reward", "discount")}
            for behind in range(1, num_steps):
                taken["reward"] += taken["discount"] * ring["reward"][at + behind, env]
                taken["discount"] *= ring["discount"][at + behind, env]
            after = ring["observation"][at + num_steps, env]
            return step(learning, taken | {"after": after, "target": target})

        learning, _ = jax.lax.scan(learn_one, learning, jax.random.split(key, config.learner_steps_per_update))
        return learning, (ring, row + length)

    return _Algorithm(_explore, loss, begin, learn)


def _explore(key: Array, q_values: Array) -> tuple[Array, dict[str, Array]]:
    return epsilon_greedy(jax.random.split(key, len(q_values)), q_values, _EPSILON), {}


def _in_epochs(config: Config) -> Callable[..., tuple[_Learning, PyTree]]:
    """Returns what learns from an update's steps and their advantages in epochs of shuffled minibatches."""
    shape, num_rows = config.agent.update_shape, config.env_steps_per_update

    def learn(
        step: _Step, learning: _Learning, steps: PyTree, values: Array, kept: PyTree, key: Array
    ) -> tuple[_Learning, PyTree]:
        rewards, discounts = steps.pop("reward"), steps.pop("discount")
        steps["advantage"] = gae(values, rewards, discounts, jnp.ones_like(rewards, bool))
        flat = jax.tree.map(lambda x: x.reshape(num_rows, *x.shape[2:]), steps)

        def epoch(learning: _Learning, key: Array) -> tuple[_Learning, None]:
            order = jax.random.permutation(key, num_rows)
            parts = jax.tree.map(lambda x: x[order].reshape(shape.minibatches, -1, *x.shape[1:]), flat)
            return jax.lax.scan(step, learning, parts)

        return jax.lax.scan(epoch, learning, jax.random.split(key, shape.epochs))[0], kept

    return learn


def _make_timer(run: Callable[[PyTree], PyTree], loop: PyTree, env_steps_per_run: int) -> Callable[[float], StageTime]:
    """Returns what runs the loop for about as many seconds, and times it."""

    def run_once() -> None:
        nonlocal loop
        loop = jax.block_until_ready(run(loop))

    return functools.partial(time_calls, run_once, env_steps_per_run)
