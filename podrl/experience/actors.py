"""Actor threads: each steps a few environment pools on the host, acts on one device, and hands rollouts to the learner.

A thread alternates between its pools: while the emulators of one pool step in EnvPool's C++ threads, the device acts
for another. The policy lag depends on the *order* of rollouts and not on timing: rollout n asks for one exact version
of the parameters. An error in a thread is kept, and raised in the main thread by the next call.
"""

from collections.abc import Callable, Sequence
import threading
from typing import cast

import jax
from jax.sharding import Mesh
import numpy as np

from podrl.envs.info import record_info
from podrl.envs.pools.checks import check_timestep
from podrl.envs.source import Pool
from podrl.experience.episodes import Episode, EpisodeTracker
from podrl.experience.handoff import Handoff, Rollout
from podrl.experience.parameters import Parameters
from podrl.experience.programs import ActingPrograms
from podrl.experience.schedule import Schedule
from podrl.experience.succession import CLOSING_S, Succession
from podrl.experience.transfer import rollout_to_learner
from podrl.experience.turn import NonFinite, Turn
from podrl.runtime.ledger import Annotate, Ledger
from podrl.runtime.process_exit import describe_error
from podrl.runtime.waiting import Stopped
from podrl.types import PyTree, Timestep, Trajectory


class ActorError(RuntimeError):
    """An actor thread failed. The message names it; the cause is the original error."""


class Actor:
    """One actor thread and its environment pools.

    Attributes:
        name: The actor's name, for messages.
        ledger: Where the thread's time goes.
        nonfinite: The values from its environments that were not finite.
    """

    def __init__(
        self,
        *,
        name: str,
        device: jax.Device,
        programs: ActingPrograms,
        make_pools: Sequence[Callable[[int], Pool]],
        env_indices: Sequence[np.ndarray],
        unroll_length: int,
        schedule: Schedule,
        parameters: Parameters,
        local_learner: Mesh,
        seeds: Callable[[np.ndarray, int], Sequence[int]],
        timeout_s: float,
        patience_s: float,
        info_keys: Sequence[str] = (),
        annotate: Annotate | None = None,
    ):
        """Creates the actor without starting its thread.

        Args:
            name: The actor's name for messages, such as `actor 0`.
            device: The device to act on.
            programs: The acting programs, compiled for `device`.
            make_pools: Functions (update at which the pool is opened) -> pool, one per pool; called in the thread.
            env_indices: For each pool, [B] uint32: the indices of its environments in the whole job.
            unroll_length: Steps in a rollout (T).
            schedule: Which rollouts to generate, and with which parameters.
            parameters: The store to fetch parameters from.
            local_learner: The mesh of learner devices that rollouts are sent to.
            seeds: (env indices, update at which they are opened) -> the environments' seeds.
            timeout_s: How long the learner waits for this actor.
            patience_s: How long this actor waits for the learner.
            info_keys: Which numbers of environments' `info` to record.
            annotate: Marks for a profiler what the thread spends its time on.
        """
        self.name = name
        self.nonfinite = NonFinite(name, waiting=schedule.max_lag)
        self.ledger = Ledger(name, annotate=annotate)
        self._device = device
        self._programs = programs
        self._make_pools = make_pools
        self._env_indices = env_indices
        self._unroll_length = unroll_length
        self._schedule = schedule
        self._parameters = parameters
        self._local_learner = local_learner
        self._seeds = seeds
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._info_keys = info_keys
        self._handoff = Handoff(capacity=1 + schedule.max_lag)
        self._stopping = threading.Event()
        self._progress = (0, 0)
        self._threads = Succession(
            self.ledger,
            self._make_rollouts,
            schedule.rollouts,
            fail=self._fail,
            should_stop=self._stopping.is_set,
            closing_s=min(CLOSING_S, timeout_s / 2),
        )

    def start(self) -> None:
        """Starts the thread."""
        self._threads.start()

    def take(self, should_stop: Callable[[], bool] = lambda: False) -> Rollout:
        """Waits for the next rollout, and returns it.

        Args:
            should_stop: Called every second of a wait.

        Raises:
            ActorError: If the thread failed.
            TimeoutError: If the rollout does not arrive in time. The message says what the thread is doing.
            Stopped: If the run has to stop before the rollout arrives.
        """
        return self._handoff.take(timeout_s=self._timeout_s, blame=self.doing, should_stop=should_stop)

    def is_decided(self) -> bool:
        """Returns whether `take` would return or raise at once."""
        return self._handoff.is_decided()

    def stop(self) -> None:
        """Asks the thread to end. `join` waits until it has."""
        self._stopping.set()
        self._handoff.stop()

    def join(self, timeout_s: float) -> bool:
        """Waits for the thread to end, and returns whether it did."""
        return self._threads.join(timeout_s)

    def is_alive(self) -> bool:
        """Returns whether the thread runs."""
        return self._threads.is_alive()

    def doing(self) -> str:
        """Describes what the thread is doing now, and what it waits for, for messages."""
        bucket, seconds = self.ledger.doing()
        rollout, step = self._progress
        waits = {
            "wait_params": f", waiting for parameters {self._schedule.versions(rollout).start} from the learner",
            "wait_rollouts": f", waiting for the learner to take rollout {rollout}",
        }
        return (
            f"{self.name} has been in {bucket!r} for {seconds:.1f} s, at step {step} of {self._unroll_length} of "
            f"rollout {rollout}{waits.get(bucket, '')}"
        )

    def _fail(self, error: BaseException) -> None:
        failure = ActorError(f"{self.name} failed: {describe_error(error)}")
        failure.__cause__ = error
        self._handoff.fail(failure)

    def _make_rollouts(self, rollouts: Sequence[int], pools: list[Pool]) -> Sequence[int]:
        """Generates rollouts up to the next boundary, and returns the numbers of those that are left.

        Args:
            rollouts: The numbers of the rollouts, in order.
            pools: A list that the opened pools are appended to.
        """
        turns: list[Turn] = []
        for number, rollout in enumerate(rollouts):
            self._progress = (rollout, 0)
            if rollout == self._schedule.boundary(rollout):
                if turns:
                    return rollouts[number:]
                turns += self._open_pools(rollout, pools)
            versions = self._schedule.versions(rollout)
            with self.ledger.spend("wait_params"):
                version, params = self._parameters.fetch(
                    self._device, versions, timeout_s=self._patience_s, who=self.name
                )
                on_device = jax.device_put(np.int32(version), self._device)
            episodes: list[Episode] = []
            for step in range(self._unroll_length):
                self._progress = (rollout, step)
                for turn in turns:
                    timestep = self._observe(turn, episodes)
                    self._act(turn, params, on_device, timestep)
            trajectories = tuple(self._finish(turn, episodes) for turn in turns)
            with self.ledger.spend("wait_rollouts"):
                finished = Rollout(trajectories=trajectories, version=version, episodes=tuple(episodes))
                self._handoff.put(finished, timeout_s=self._patience_s, who=self.name)
        return ()

    def _open_pools(self, rollout: int, opened: list[Pool]) -> list[Turn]:
        """Opens this thread's pools."""
        pools = zip(self._make_pools, self._env_indices, strict=True)
        return [self._open(make_pool, rollout, env_indices, opened) for make_pool, env_indices in pools]

    def _open(
        self,
        make_pool: Callable[[int], Pool],
        rollout: int,
        env_indices: np.ndarray,
        opened: list[Pool],
    ) -> Turn:
        """Opens a pool and resets its environments."""
        with self.ledger.spend("env"):
            pool = make_pool(rollout)
            opened.append(pool)
            ended_numbers = record_info(pool, self._info_keys)
            timestep = pool.reset()
        check_timestep(timestep, self._programs.timestep, pool)
        turn = Turn(
            pool=pool,
            seeds=self._seeds(env_indices, rollout),
            episodes=EpisodeTracker(len(env_indices)),
            ended_numbers=ended_numbers,
            state=self._programs.init(*jax.device_put((env_indices, np.int32(rollout)), self._device)),
            timestep=timestep,
        )
        self.nonfinite.note(turn.find_nonfinite(), *self._progress)
        return turn

    def _observe(self, turn: Turn, episodes: list[Episode]) -> Timestep:
        """Returns the pool's newest timestep once it arrives, and appends the episodes that ended to `episodes`."""
        if self._stopping.is_set():
            raise Stopped
        if turn.timestep is None:
            with self.ledger.spend("env"):
                ended, nonfinite = turn.receive(self._programs.timestep)
            episodes += ended
            self.nonfinite.note(nonfinite, *self._progress)
        return cast(Timestep, turn.timestep)

    def _act(self, turn: Turn, params: PyTree, version: jax.Array, timestep: Timestep) -> None:
        """Chooses actions for a timestep and sends them to the pool, without waiting for its step."""
        with self.ledger.spend("act"):
            timestep = jax.device_put(timestep, self._device)
            action, turn.state = self._programs.act(params, version, turn.state, timestep)
            actions = np.asarray(action)
        with self.ledger.spend("env"):
            turn.pool.send(actions)
            turn.timestep = None

    def _finish(self, turn: Turn, episodes: list[Episode]) -> Trajectory:
        """Completes the pool's rollout with the row that only bootstraps, and starts moving it to the learner."""
        timestep = self._observe(turn, episodes)
        with self.ledger.spend("transfer"):
            timestep = jax.device_put(timestep, self._device)
            trajectory, turn.state = self._programs.finish(turn.state, timestep)
            return rollout_to_learner(trajectory, self._local_learner)
