"""Which keys of `network` have no effect on the network that a run gets: they are refused, or said."""

from collections.abc import Iterator, Mapping
import dataclasses
from types import MappingProxyType
from typing import Any

from podrl.actions import ContinuousActions, HybridActions
from podrl.config.config import NetworkConfig, check
from podrl.mistakes import shown
from podrl.networks.observation import encoders_of_parts
from podrl.networks.parts import is_image, seen
from podrl.types import EnvSpec

_FOR_NUMBERS = ("squash_actions", "action_scale", "initial_scale")
_OF_MLPS = ("hidden_sizes", "activation")


def check_has_effect(config: NetworkConfig, spec: EnvSpec, before: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Checks that each key that is not at its default changes something.

    Sizes of layers are left to `describe_unused`: config files set them for the network that they begin with, and an
    override of its kind alone is common. So are keys that a run had before, as earlier podrls did not refuse them.

    Args:
        config: The config of the network.
        spec: One environment.
        before: The same section as the run that is resumed has it in its `config.json`; empty for a new run.

    Raises:
        ConfigError: If one has no effect; the message names what would use it.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for key, why in _without_effect(config, spec):
        value = getattr(config, key)
        check(
            value in (defaults[key], before.get(key, defaults[key])),
            f"network.{key}={shown(value)} has no effect: {why} Leave it at {shown(defaults[key])}.",
        )


def describe_unused(config: NetworkConfig, spec: EnvSpec) -> str:
    """Describes keys without effect that a run may have, where they are not at their defaults; empty without.

    These are sizes of layers that the network does not have, and keys that a resumed run had before.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    # Values of actions that are numbers are MLPs.
    has_mlp = "mlp" in _kinds(config, spec) or isinstance(spec.actions, ContinuousActions)
    why = {} if has_mlp else dict.fromkeys(_OF_MLPS, "there is no MLP")
    why |= {"core_size": "network.core='none'"} if config.core == "none" else {}
    why |= {key: f"as before: {reason.rstrip('.')}" for key, reason in _without_effect(config, spec)}
    values = {key: getattr(config, key) for key in why}
    unused = [f"network.{key}={shown(value)} ({why[key]})" for key, value in values.items() if value != defaults[key]]
    return f"without effect: {'; '.join(unused)}" if unused else ""


def _without_effect(config: NetworkConfig, spec: EnvSpec) -> Iterator[tuple[str, str]]:
    """Yields the keys without effect, and a sentence for each that says why, and what would use it."""
    kinds, observed = _kinds(config, spec), seen(spec.observation)
    if kinds == {"mlp"}:
        remedy = "network.hidden_sizes are the widths of an MLP's layers."
        yield (
            "width",
            f"the encoder is an MLP, and it multiplies the channels of resnet, nature, minatar and drq; {remedy}",
        )
    if config.has_own_encoder:
        yield "width", f"network.encoder={config.encoder!r} has its sizes in its own brackets, 'module:Name(size=64)'."
    if isinstance(observed, Mapping) and not any(map(is_image, observed.values())):
        yield "frame_stack", f"of the parts that env.id={spec.id!r} observes only images are stacked, and it has none."
    if not isinstance(spec.actions, ContinuousActions | HybridActions):
        for key in _FOR_NUMBERS:
            yield key, f"it is for actions that are numbers, and those of env.id={spec.id!r} are choices."


def _kinds(config: NetworkConfig, spec: EnvSpec) -> set[Any]:
    """Returns the kinds of encoders that the network has."""
    return set(encoders_of_parts(config, spec).values()) or {config.encoder}
