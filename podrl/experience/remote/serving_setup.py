"""What a config says of actors that serve what is ready: their programs, and how they serve."""

import functools

import jax

from podrl.config.config import Config
from podrl.experience.layout import Layout, default_env_threads
from podrl.experience.remote.batcher import batch_sizes
from podrl.experience.remote.env_workers import EnvWorkers
from podrl.experience.remote.serving import Serving
from podrl.experience.remote.slots import SlotPrograms, SlotUnroller, compile_slots
from podrl.experience.remote.unroll_queue import num_buffers
from podrl.experience.unroll import Unroller


def compile_serving(config: Config, unroller: Unroller, layout: Layout, device: jax.Device) -> SlotPrograms:
    """Compiles acting for one actor's slots; batches are padded to 1, 2, 4, ... pools, or the largest.

    Args:
        config: the run's config.
        unroller: acts in one pool.
        layout: how environments are assigned.
        device: the actor's device.
    """
    pool, pools = layout.envs_per_pool, layout.pools_per_actor
    slots = SlotUnroller(
        unroller=unroller, seed=config.seed, num_slots=pools * pool, num_columns=num_buffers(pools) * pool
    )
    _, largest = batch_sizes(config, layout)
    sizes = [pool * 2**n for n in range(pools.bit_length()) if 2**n * pool < largest]
    return compile_slots(slots, [*sizes, largest], device)


def make_serving(config: Config, workers: EnvWorkers, layout: Layout) -> Serving:
    """Returns how every actor serves its groups."""
    smallest, largest = batch_sizes(config, layout)
    num_threads = config.actors.env_threads or default_env_threads(layout)
    return Serving(
        open_group=functools.partial(workers.open_group, num_threads=num_threads),
        num_envs=config.actors.num_envs,
        smallest=smallest,
        largest=largest,
        limit_s=config.remote.batch_limit_ms / 1000,
        alone_s=config.remote.alone_s(config.actors.timeout_s),
        marks_cuts=config.agent.update_shape.sequences is not None,
    )
