"""Marks on config keys that only the agent or the environment's source can resolve: see `podrl.config.overrides`."""

from typing import Any, NamedTuple


class Typed(str):
    """A value as it was typed, for a key whose type only the agent knows, or an option that only the environment knows.

    Attributes:
        like: the hint that applies if the environment has none.
    """

    like: Any = Any


class Replaced(str):
    """The `agent.name` of the command line where the config file names another agent and sets keys for it.

    Attributes:
        agent: the config file's `agent.name`.
        keys: those keys, without the ones that were typed.
    """

    agent: str
    keys: tuple[str, ...]


class Changed(str):
    """The `env.id` of the command line where it differs from the config file's.

    Attributes:
        source: the config file's `env.source`.
        env_id: the config file's `env.id`.
        inherited: keys of `env` that suit some environments only and that were not typed.
    """

    source: str
    env_id: str
    inherited: tuple[str, ...] = ()


class Inherited(NamedTuple):
    """A config file's option whose environment was changed on the command line.

    Attributes:
        value: the config file's value.
        source: the config file's `env.source`.
        env_id: the config file's `env.id`.
    """

    value: Any
    source: str
    env_id: str
