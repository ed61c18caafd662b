"""The stage of environments that step in environment workers: what the wire takes beside pools of the run's own."""

import contextlib
import dataclasses

from podrl.experience.remote.env_workers import EnvWorkers
from podrl.experience.remote.traffic import ROW_PREFIX
from podrl.performance.benchmark.instruments import StageTime
from podrl.performance.benchmark.stages import Parts, open_pools, time_env
from podrl.performance.benchmark.workers import env_workers


def time_workers(parts: Parts, seconds: float) -> StageTime:
    """Environments alone, as `time_env`, in environment workers that are started for it: with the bytes on the wire.

    A run listens where these workers come to, so that they end with the stage.
    """
    config, timestep = parts.config, parts.programs.acting[parts.actor_devices[0]].timestep
    with (
        env_workers(config),
        EnvWorkers(config, parts.source, parts.layout, timestep, process_index=0) as workers,
        contextlib.ExitStack() as stack,
    ):
        pools = open_pools(parts, workers.source, stack)
        timesteps = [[pool.reset() for pool in actor_pools] for actor_pools in pools]
        before = _bytes(workers)
        sample = time_env(parts, pools, timesteps, seconds)
        return dataclasses.replace(sample, wire_bytes=_bytes(workers) - before)


def _bytes(workers: EnvWorkers) -> int:
    totals = workers.totals()
    return totals[f"{ROW_PREFIX}bytes_in"] + totals[f"{ROW_PREFIX}bytes_out"]
