"""From a config to its environment: the source, with its options read, and what one environment looks like."""

import dataclasses

from podrl.config.config import Config, EnvConfig, check
from podrl.config.env_numbers import with_number
from podrl.envs.settings import check_info_keys, settle
from podrl.envs.source import Source, load_source
from podrl.networks.observation import joins_all_parts
from podrl.types import EnvSpec


def load_environment(config: Config, env_number: int = 0) -> tuple[Config, Source, EnvSpec]:
    """The config with the environment's options read, its source, and what one environment looks like.

    Args:
        config: The run's config.
        env_number: The number of the environment that the source makes for this, if it makes one.

    Raises:
        ConfigError: if there is none of that name, or it does not take its options.
    """
    source = load_source(config.env.source)
    config = dataclasses.replace(config, env=settle(source, config.env))
    check_info_keys(source, config)
    spec = source.make_spec(with_number(config.env, env_number))
    if joins_all_parts(config.network, spec):
        config = dataclasses.replace(config, env=dataclasses.replace(config.env, parts="joined"))
        spec = source.make_spec(with_number(config.env, env_number))
    if config.env.training_wrappers:
        _check_same_without_training_wrappers(source, with_number(config.env, env_number), spec)
    return config, source, spec


def _check_same_without_training_wrappers(source: Source, env: EnvConfig, spec: EnvSpec) -> None:
    """Raises `ConfigError` if what evaluations leave out changes what an agent sees or does."""
    plain = source.make_spec(dataclasses.replace(env, training_wrappers=()))
    for what in ("observation", "actions"):
        trained, evaluated = getattr(spec, what), getattr(plain, what)
        check(
            trained == evaluated,
            f"env.training_wrappers={env.training_wrappers} change the {what} of env.id={env.id!r} from {evaluated} to "
            f"{trained}, and evaluations leave them out. Name what does so in env.wrappers, which stay.",
        )
