"""Makes the evaluators that a config asks for: one, or one for each seed of a run."""

from collections.abc import Callable, Sequence, Set
import threading
from typing import Protocol

import jax

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config
from podrl.config.env_numbers import with_number
from podrl.envs.opening import make_pool
from podrl.envs.source import EvaluationProtocol, Pool, Source, evaluation_protocol
from podrl.evaluation.endless import EndlessGuard
from podrl.evaluation.episodes import Episodes, numbers_of_evaluation
from podrl.evaluation.evaluation_thread import Play, Turns
from podrl.evaluation.evaluator import OFF, Evaluator, FindUnfinished
from podrl.evaluation.play import Player, check_same_interface, make_player
from podrl.experience.parameters import copy_to
from podrl.experience.schedule import last_update
from podrl.runtime.ledger import Ledger
from podrl.runtime.machine import available_cores
from podrl.types import Counters, EnvSpec, PyTree


class MakeEvaluator(Protocol):
    """Makes the evaluator of one seed."""

    def __call__(
        self,
        seed: int,
        *,
        begun: Counters,
        done: Set[int],
        write: Callable[[Counters, Episodes], None],
        find_unfinished: FindUnfinished = lambda params: (),
    ) -> Evaluator:
        """Makes it.

        Args:
            seed: the seed, which is that of its episodes.
            begun: counters at which this start of the run begins.
            done: updates that were evaluated before.
            write: called with the episodes.
            find_unfinished: returns what an earlier start of the run left unfinished.
        """
        ...


def prepare_evaluators(
    config: Config, *, agent: Agent, spec: EnvSpec, source: Source, device: jax.Device
) -> MakeEvaluator:
    """Returns what makes the evaluators of a run's seeds; `OFF` for each if the config asks for none.

    They share the compiled program, which the first of their threads compiles. Their evaluations begin in the order in
    which they are added, and as many play at the same time as half of the cores: the learner needs the others.

    Args:
        config: config of the whole run.
        agent: the algorithm.
        spec: the environment's spec in training.
        source: makes environments.
        device: device to act on.

    Raises:
        ConfigError: if the environment cannot be played by its own protocol.
    """
    if config.evaluate.every_updates == 0:
        return lambda seed, **_: OFF
    number = jax.process_index()  # Every process tries one environment; none trains yet.
    protocol = evaluation_protocol(source, config.env, env_number=number)
    check_same_interface(spec, source.make_spec(with_number(protocol.env, number)), protocol)
    player = _SharedPlayer(lambda: _make_player(config, agent, spec, source, protocol, device))
    turns = Turns(at_once=max(1, available_cores() // 2))

    def make(
        seed: int,
        *,
        begun: Counters,
        done: Set[int],
        write: Callable[[Counters, Episodes], None],
        find_unfinished: FindUnfinished = lambda params: (),
    ) -> Evaluator:
        ledger = Ledger("evaluator")
        return Evaluator(
            every_updates=config.evaluate.every_updates,
            last_update=last_update(config, begun),
            done=done,
            timeout_s=config.evaluate.timeout_s,
            play=_make_play(player, seed, protocol, device, ledger),
            write=write,
            ledger=ledger,
            turns=turns,
            whose=f" of seed {seed}" if config.topology.seeds > 1 else "",
            find_unfinished=find_unfinished,
        )

    return make


class _SharedPlayer:
    """One player for several threads; the first that asks for it makes it."""

    def __init__(self, make: Callable[[], Player]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: Player | None = None

    def __call__(self) -> Player:
        with self._lock:
            self._made = self._made or self._make()
            return self._made


def _make_player(
    config: Config, agent: Agent, spec: EnvSpec, source: Source, protocol: EvaluationProtocol, device: jax.Device
) -> Player:
    """Compiles what plays."""

    def open_pool(seeds: Sequence[int]) -> Pool:
        numbers = numbers_of_evaluation(config, len(seeds))
        return make_pool(source, protocol.env, seeds=seeds, env_numbers=numbers, num_threads=1)

    return make_player(
        agent,
        spec,
        policy="greedy" if config.evaluate.greedy else "sampled",
        episodes=config.evaluate.episodes,
        device=device,
        make_pool=open_pool,
        info_keys=config.log.info_keys,
    )


def _make_play(
    player: Callable[[], Player], seed: int, protocol: EvaluationProtocol, device: jax.Device, ledger: Ledger
) -> Play:
    """Makes the function that plays one evaluation of a seed."""

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
        inputs = (copy_to(params, device), seed, update)
        return ready.play(*inputs, show_progress=guard, should_stop=should_stop)

    return play
