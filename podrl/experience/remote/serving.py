"""An actor that serves whichever of its environments are ready: `determinism='free'` with environment workers.

Each of the actor's pools is a *group* of environments, which step together in one worker; every worker has some of
them. The actor acts for those groups whose timesteps have come (`podrl.experience.remote.batcher`), with the newest
parameters that are ready. So no group waits for another, and the more groups a worker has (`actors.pools_per_thread`),
the more of them step while the actor acts for others. A group is one message: smaller groups overlap better, larger
ones cost fewer messages.

A worker that is lost takes only its own groups with it. What they had under way is dropped, and the rest fill the
batches until another worker comes, which opens them anew, with new seeds.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, cast

import numpy as np

from podrl.config.config import ConfigError
from podrl.envs.source import Pool
from podrl.experience.actors import Actor
from podrl.experience.episodes import Episode
from podrl.experience.handoff import Rollout
from podrl.experience.parameters import ParameterStore
from podrl.experience.remote.batcher import Batcher
from podrl.experience.remote.connection import EnvWorkerError
from podrl.experience.remote.env_workers import OpenGroup
from podrl.experience.remote.group import Group
from podrl.experience.remote.inference import Inference
from podrl.experience.remote.pool import RemotePool
from podrl.experience.remote.slots import SlotPrograms
from podrl.experience.remote.unroll_queue import Placed, UnrollQueue
from podrl.experience.transfer import rollout_to_learner
from podrl.runtime.waiting import Patience, Stopped
from podrl.types import Trajectory

_SLICE_S = 1.0  # The longest wait without a look at what is late.
_PAUSE_S = 0.002  # Until newer parameters are looked for, where a group waits for them.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving:
    """How an actor serves its groups.

    Attributes:
        open_group: opens a group in its worker; see `EnvWorkers.open_group`.
        num_envs: environments of the whole job.
        smallest: environments from which on a batch is served at once.
        largest: environments of a batch at most.
        limit_s: seconds that a timestep waits for others.
        alone_s: seconds without any worker after which the run ends.
        marks_cuts: whether row 0 of an unroll that does not continue its place in the batch counts as the first of an
            episode: a replay of sequences would join what does not belong together.
    """

    open_group: OpenGroup
    num_envs: int
    smallest: int
    largest: int
    limit_s: float
    alone_s: float
    marks_cuts: bool


class ServingActor(Actor):
    """An actor thread that acts for the groups that are ready; to the learner it is an actor like any other."""

    def __init__(self, serving: Serving, *, programs: SlotPrograms, **settings: Any):
        """Creates the actor without starting its thread.

        Args:
            serving: how it serves.
            programs: the acting programs, compiled for the actor's device.
            settings: those of every `Actor`; groups are opened by `serving` instead of `make_pools`.
        """
        super().__init__(programs=cast(Any, programs), **settings)
        self._serving, self._slot_programs = serving, programs
        self._store: ParameterStore = settings["parameters"]
        self._groups = [Group(number=number, env_index=index) for number, index in enumerate(settings["env_indices"])]
        self._queue = UnrollQueue(len(self._groups), max_lag=self._schedule.max_lag)
        # A group's answer, and the number of the opening that it belongs to.
        self._batcher: Batcher[tuple[Group, int]] = Batcher(serving.smallest, serving.largest, limit_s=serving.limit_s)
        self._alone: Patience | None = None  # While no group has a worker.

    def stop(self) -> None:
        """Asks the thread to end, and drops what waits to be served."""
        super().stop()
        self._batcher.close()

    def doing(self) -> str:
        """Describes what the thread is doing now, for messages."""
        bucket, seconds = self.ledger.doing()
        num_open = sum(group.pool is not None for group in self._groups)
        return (
            f"{self.name} has been in {bucket!r} for {seconds:.1f} s, at rollout {self._progress[0]}, and "
            f"{num_open} of its {len(self._groups)} groups of environments have a worker"
        )

    def _make_rollouts(self, rollouts: Sequence[int], pools: list[Pool]) -> Sequence[int]:
        """Generates all rollouts; environments are opened anew only after their worker was lost."""
        self._inference = Inference(self._slot_programs, self._device, first=self._schedule.first)
        self._await_params(rollouts[0])
        for rollout in rollouts:
            self._progress = (rollout, 0)
            episodes: list[Episode] = []
            while not self._queue.is_complete(rollout):
                self._serve(rollout, pools, episodes)
            placed = self._queue.take()
            for text, row in (each.unroll.nonfinite for each in placed):
                self.nonfinite.note(text, rollout, row)
            with self.ledger.spend("transfer"):
                trajectories = tuple(self._read(*pair) for pair in zip(placed, self._groups, strict=True))
            with self.ledger.spend("wait_rollouts"):
                oldest = min(each.unroll.version for each in placed)
                finished = Rollout(trajectories=trajectories, version=oldest, episodes=tuple(episodes))
                self._handoff.put(finished, timeout_s=self._patience_s, who=self.name)
        return ()

    def _serve(self, rollout: int, pools: list[Pool], episodes: list[Episode]) -> None:
        """Serves what is ready, or waits up to a second for something to be."""
        if self._stopping.is_set():
            raise Stopped
        self._open_groups(pools)
        if (newer := self._store.newer(self._device, self._inference.version)) is not None:
            self._inference.use(*newer)
        held = [group for group in self._groups if group.timestep is not None]
        awaited = [group for group in self._groups if group.patience is not None]
        is_ready = [self._may_act(group, rollout) for group in held]
        if held and not awaited and not any(is_ready):
            self._await_params(rollout)
            return
        timeout_s = 0.0 if any(is_ready) else _PAUSE_S if held else _SLICE_S
        with self.ledger.spend("env"):
            self._give_up_late(awaited)
            taken = self._batcher.take(timeout_s=timeout_s, expected=sum(group.size for group in awaited))
            for group, opening in taken:
                if group.pool is not None and group.opened == opening:  # It may have been lost since.
                    self._receive(group, group.pool, pools, episodes)
        ready = [group for group in self._groups if group.timestep is not None and self._may_act(group, rollout)]
        num = max(1, self._serving.largest // self._groups[0].size)
        for start in range(0, len(ready), num):
            self._act_for(ready[start : start + num], pools)

    def _open_groups(self, pools: list[Pool]) -> None:
        """Opens the groups whose worker is there, and ends the run if there has been none for too long."""
        for group in self._groups:
            if group.pool is None:
                with self.ledger.spend("env"):
                    self._open_group(group, pools)
        if any(group.pool is not None for group in self._groups):
            self._alone = None
            return
        self._alone = self._alone or Patience(self._serving.alone_s)
        if not self._alone.left_s():
            raise TimeoutError(
                f"All environment workers of {self.name} have been gone for {self._serving.alone_s:.0f} s: the shorter "
                "of remote.join_timeout_s and nine tenths of actors.timeout_s. The log says why each was lost."
            )

    def _open_group(self, group: Group, pools: list[Pool]) -> None:
        """Opens a group if its worker is there, without waiting for the environments."""
        opening = group.opened + 1

        def notify() -> None:
            group.note_answer(opening)
            self._batcher.put((group, opening), group.size)

        # Each opening has seeds of its own: those of further environments of the run.
        numbers = (group.env_index + np.int64(group.opened * self._serving.num_envs)) % 2**31
        seeds = self._seeds(numbers, self._schedule.first)
        pool = self._serving.open_group(group.env_index, seeds, notify)
        if pool is None:
            return
        pools.append(pool)
        group.begin(pool, seeds)
        self._inference.open(group)
        try:
            if self._info_keys:
                pool.record_info(self._info_keys)
            pool.begin()
        except EnvWorkerError:
            self._lose(group, pools)

    def _give_up_late(self, awaited: Sequence[Group]) -> None:
        """Gives up the workers whose answer is late; all their groups are told so."""
        for group in awaited:
            if group.pool is None or group.patience is None or group.patience.left_s() or group.has_answer:
                continue
            limit_s = group.pool.opening_s if group.unroll is None else group.pool.timeout_s
            group.pool.lose(f"it has not answered for {limit_s:g} s: it was stopped, or an environment hangs")

    def _receive(self, group: Group, pool: RemotePool, pools: list[Pool], episodes: list[Episode]) -> None:
        """Takes a group's answer, or learns that there will be none."""
        try:
            if group.patience is None:
                return pool.check()  # Nothing was asked.
            timestep = pool.recv() if group.unroll is not None else pool.first()
        except (EnvWorkerError, ConfigError) as error:
            if group.opened == 1 and group.unroll is None and pool.is_there:
                raise  # The environments cannot be made at all.
            pool.lose(str(error))
            return self._lose(group, pools)
        group.take(timestep)
        episodes += group.episodes.step(timestep.reward, timestep.discount, timestep.first, pool.ended_numbers)
        if group.unroll is not None and group.row == self._unroll_length:
            with self.ledger.spend("act"):
                self._inference.finish(group, group.unroll, timestep)
            self._queue.finish(group.number)
            group.finish()
        return None

    def _lose(self, group: Group, pools: list[Pool]) -> None:
        """Drops what was under way in a group whose worker was lost."""
        self._queue.drop(group.number)
        if group.pool is not None:
            pools.remove(group.pool)
        group.end()

    def _may_act(self, group: Group, rollout: int) -> bool:
        """Returns whether a group has an unroll under way; begins one if there is a place for it."""
        if group.unroll is None:
            group.unroll, group.row = self._queue.begin(group.number, self._inference.version, rollout), 0
        return group.unroll is not None

    def _act_for(self, groups: Sequence[Group], pools: list[Pool]) -> None:
        """Chooses actions for groups and sends them, without waiting for their steps."""
        with self.ledger.spend("act"):
            actions = self._inference.act(groups)
        with self.ledger.spend("env"):
            for group, action in zip(groups, actions, strict=True):
                group.row += 1
                try:
                    if (pool := group.pool) is not None:
                        group.await_answer(pool.timeout_s)
                        pool.send(action)
                except EnvWorkerError:
                    self._lose(group, pools)

    def _read(self, placed: Placed, place: Group) -> Trajectory:
        """Returns an unroll as the trajectory of a place in the batch, and starts moving it to the learner."""
        is_cut = placed.is_cut and self._serving.marks_cuts
        return rollout_to_learner(self._inference.read(placed.unroll, place, is_cut=is_cut), self._local_learner)

    def _await_params(self, rollout: int) -> None:
        """Waits for newer parameters, without which nothing is left to do."""
        with self.ledger.spend("wait_params"):
            oldest = max(self._inference.version + 1, self._schedule.versions(rollout).start)
            versions = range(oldest, rollout + 1)
            newest = self._parameters.fetch(self._device, versions, timeout_s=self._patience_s, who=self.name)
            self._inference.use(*newest)
