"""Opens a source's environments, each with its seed and its number in the job."""

from collections.abc import Sequence
from typing import Any

from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.source import PicturePool, Pool, Source


def make_pool(
    source: Source, config: EnvConfig, *, seeds: Sequence[int], env_numbers: Sequence[int], num_threads: int
) -> Pool:
    """Makes a pool by the source's `make_pool`.

    Args:
        source: Makes the environments.
        config: The environment's config.
        seeds: [B] in [0, 2**31), one per environment.
        env_numbers: [B]; the environments' numbers in the job, see `podrl.config.env_numbers`.
        num_threads: Threads that step the pool, at least 1, where the source has any.
    """
    return source.make_pool(config, seeds=seeds, num_threads=num_threads, **_numbers(source, env_numbers))


def make_picture_pool(
    source: Source, config: EnvConfig, *, seeds: Sequence[int], env_numbers: Sequence[int], num_threads: int
) -> PicturePool:
    """Makes a pool with pictures by the source's `make_picture_pool`; see `make_pool`.

    Raises:
        ConfigError: if the source has no pictures.
    """
    if source.make_picture_pool is None:
        raise ConfigError(f"env.source={config.source!r} has no pictures: it lacks make_picture_pool.")
    numbers = _numbers(source, env_numbers)
    return source.make_picture_pool(config, seeds=seeds, num_threads=num_threads, **numbers)


def _numbers(source: Source, env_numbers: Sequence[int]) -> dict[str, Any]:
    return {"env_numbers": [int(number) for number in env_numbers]} if source.gives_numbers else {}
