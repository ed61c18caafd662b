"""Marks on keys of an environment, which its source resolves: see `overrides` and `podrl.envs.settings`."""

from typing import Any, NamedTuple


class Typed(str):
    """A value as it was typed, of an option whose type only the environment knows.

    Attributes:
        like: the hint that goes if the environment has none.
    """

    like: Any = Any


class Changed(str):
    """The `env.id` of the command line, where the config file has another environment.

    Attributes:
        source: `env.source` of the file.
        env_id: `env.id` of the file.
        inherited: keys of `env` that suit some environments only, and that were not typed.
    """

    source: str
    env_id: str
    inherited: tuple[str, ...] = ()


class Inherited(NamedTuple):
    """An option of a config file whose environment was changed on the command line.

    Attributes:
        value: as the file has it.
        source: `env.source` of the file.
        env_id: `env.id` of the file.
    """

    value: Any
    source: str
    env_id: str
