"""Makes the evaluator that a config asks for."""

from collections.abc import Callable, Sequence, Set
import functools

import jax

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config
from podrl.config.env_numbers import with_number
from podrl.envs.opening import make_pool
from podrl.envs.source import EvaluationProtocol, Pool, Source, evaluation_protocol
from podrl.evaluation.endless import EndlessGuard
from podrl.evaluation.episodes import Episodes, numbers_of_evaluation
from podrl.evaluation.evaluation_thread import Play
from podrl.evaluation.evaluator import OFF, Evaluator
from podrl.evaluation.play import Player, check_same_interface, make_player
from podrl.experience.parameters import copy_to
from podrl.experience.schedule import last_update
from podrl.runtime.ledger import Ledger
from podrl.types import Counters, EnvSpec, PyTree


def make_evaluator(
    config: Config,
    *,
    agent: Agent,
    spec: EnvSpec,
    source: Source,
    device: jax.Device,
    begun: Counters,
    done: Set[int],
    write: Callable[[Counters, Episodes], None],
) -> Evaluator:
    """Makes the evaluator, which compiles what it needs in its own thread; `OFF` if the config asks for none.

    Args:
        config: config of the whole run.
        agent: the algorithm.
        spec: the environment's spec in training.
        source: makes environments.
        device: device to act on.
        begun: counters at which this start of the run begins.
        done: updates that were evaluated before.
        write: called with the episodes.

    Raises:
        ConfigError: if the environment cannot be played by its own protocol.
    """
    if config.evaluate.every_updates == 0:
        return OFF
    number = jax.process_index()  # Every process tries one environment; none trains yet.
    protocol = evaluation_protocol(source, config.env, env_number=number)
    check_same_interface(spec, source.make_spec(with_number(protocol.env, number)), protocol)

    ledger = Ledger("evaluator")
    return Evaluator(
        every_updates=config.evaluate.every_updates,
        last_update=last_update(config, begun),
        done=done,
        timeout_s=config.evaluate.timeout_s,
        play=_make_play(config, agent, spec, source, protocol, device, ledger),
        write=write,
        ledger=ledger,
    )


def _make_play(
    config: Config,
    agent: Agent,
    spec: EnvSpec,
    source: Source,
    protocol: EvaluationProtocol,
    device: jax.Device,
    ledger: Ledger,
) -> Play:
    """Makes the function that plays one evaluation; its first call compiles."""

    def open_pool(seeds: Sequence[int]) -> Pool:
        numbers = numbers_of_evaluation(config, len(seeds))
        return make_pool(source, protocol.env, seeds=seeds, env_numbers=numbers, num_threads=1)

    @functools.cache
    def player() -> Player:
        return make_player(
            agent,
            spec,
            policy="greedy" if config.evaluate.greedy else "sampled",
            episodes=config.evaluate.episodes,
            device=device,
            make_pool=open_pool,
            info_keys=config.log.info_keys,
        )

    def play(
        params: PyTree,
        update: int,
        *,
        show_progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> Episodes:
        with ledger.spend("compile"):
            ready = player()
        guard = EndlessGuard(protocol, show_progress)
        inputs = (copy_to(params, device), config.seed, update)
        return ready.play(*inputs, show_progress=guard, should_stop=should_stop)

    return play
