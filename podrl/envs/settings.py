"""What podrl itself does around an environment, and which sources do it.

`env.max_episode_steps`, `env.workers`, `env.worker_timeout_s` and `env.wrappers` mean the same whatever the source, and
never reach an environment's constructor: `env.options` is all that does. A source names those that it keeps in
`SETTINGS`; the others are refused instead of ignored.
"""

from typing import Any

from podrl.config import ENV_SETTINGS, EnvConfig, check

_INSTEAD = {
    "max_episode_steps": "its episodes are as long as the source makes them",
    "workers": "its environments are not stepped from Python; env.source=gymnasium and ale have workers",
    "worker_timeout_s": "its environments are not stepped from Python; env.source=gymnasium and ale have workers",
    "wrappers": "its environments are not gymnasium.Env objects; use env.source=gymnasium or ale",
}


def check_settings(source: Any, config: EnvConfig) -> None:
    """Checks that the source keeps every setting of podrl's that `config` changes.

    Args:
        source: a module; `SETTINGS` are the names of those that it keeps, none if it has no such attribute.
        config: of the environment.

    Raises:
        ConfigError: if it does not keep one; names it.
    """
    kept = getattr(source, "SETTINGS", ())
    defaults = EnvConfig(id=config.id)
    for name in ENV_SETTINGS:
        value = getattr(config, name)
        check(
            name in kept or value == getattr(defaults, name),
            f"env.{name}={value!r} has no effect with env.source={config.source!r}: {_INSTEAD[name]}.",
        )
