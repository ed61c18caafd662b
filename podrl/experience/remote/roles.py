"""What workers are for: to step environments, or to act. It decides what the learner tells them of its config."""

from collections.abc import Callable, Mapping
import dataclasses
import os
from typing import Any

from podrl.agents.parts.loading import find_config_type
from podrl.config.config import EnvConfig
from podrl.config.config_dict import read_resolved
from podrl.experience.remote.messages import env_to_fields, fields_to_env
from podrl.runtime.software import find_jax
from podrl.runtime.xla_flags import flags_of_cpu


@dataclasses.dataclass(frozen=True, kw_only=True)
class Role:
    """What a worker is for.

    Attributes:
        noun: What it is called.
        command: What starts one.
        key: The config key of their number.
        pack: (the part of the learner's config that they need, as plain values) -> fields that JSON restores.
        software: () -> what of this process's software decides which bits the workers compute, by name.
        read: (these fields) -> that part as dataclasses. Raises ConfigError, TypeError, KeyError or AttributeError.
    """

    noun: str
    command: str
    key: str
    pack: Callable[[Mapping[str, Any]], dict[str, Any]]
    read: Callable[[Mapping[str, Any]], Any]
    software: Callable[[], dict[str, str]]


def _pack_run(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**run, "env": env_to_fields(run["env"])}


def _read_run(fields: Mapping[str, Any]) -> Any:
    return read_resolved({**fields, "env": fields_to_env(fields["env"])}, find_config_type(fields["agent"]))


def _find_software() -> dict[str, str]:
    """Returns what acting on a CPU depends on; podrl's own choice of flags depends on the host."""
    return find_jax(os.environ, flags_of_cpu)


ENVIRONMENTS = Role(
    noun="environment worker",
    command="env_worker",
    key="remote.env_workers",
    pack=env_to_fields,
    read=lambda fields: EnvConfig(**fields_to_env(fields)),
    software=dict,
)
ACTORS = Role(
    noun="actor worker",
    command="actor_worker",
    key="remote.actor_workers",
    pack=_pack_run,
    read=_read_run,
    software=_find_software,
)
