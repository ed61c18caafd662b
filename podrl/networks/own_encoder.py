"""Encoders of a user's own: `network.encoder='my_package.my_module:MyEncoder(layers=2)'`.

The class is a Flax module. It is called with observations of `N` environments and returns their features:

    class MyEncoder(nn.Module):
        layers: int = 2
        dtype: DTypeLike = jnp.float32

        @nn.compact
        def __call__(self, observation):  # [N, ...] -> [N, F]
            ...

Its fields have the values that the config writes in brackets, or their defaults. A field `dtype` gets the config's
`network.compute_dtype`. It has parameters alone: no dropout, and no running statistics.
"""

from collections.abc import Mapping
import dataclasses
import inspect
from typing import Any

import flax.linen as nn
import jax
from jax import numpy as jnp

from podrl.config.config import ConfigError, NetworkConfig, check, did_you_mean
from podrl.config.reading import read_key
from podrl.config.type_hints import hint_of
from podrl.config.wrappers import parse_wrapper
from podrl.networks.functions import opening_inputs
from podrl.runtime.process_exit import describe_error
from podrl.runtime.user_imports import import_named
from podrl.types import EnvSpec, PyTree

_FLAXS = ("parent", "name")  # Fields that every Flax module has.


def make_own_encoder(config: NetworkConfig) -> nn.Module:
    """Returns the encoder that `network.encoder` names.

    Raises:
        ConfigError: if there is none of that name, it is no Flax module, or has no such fields.
    """
    call, key = parse_wrapper("network.encoder", config.encoder), f"network.encoder={config.encoder!r}"
    encoder = _find(call.module, call.name, key)
    fields = {field.name: field for field in dataclasses.fields(encoder) if field.init and field.name not in _FLAXS}
    arguments: dict[str, Any] = {"dtype": jnp.dtype(config.compute_dtype)} if "dtype" in fields else {}
    for name, text in call.arguments.items():
        own = [each for each in fields if each != "dtype"]
        check(
            name in own,
            f"{key}: {call.name} has no field {name!r} to set{did_you_mean(name, own)} Available: "
            f"{', '.join(own) or 'none'}.",
        )
        arguments[name] = read_key(f"{key}: {name}", text, hint_of(fields[name].default, is_signature=True))
    missing = [name for name, field in fields.items() if name not in arguments and _has_no_default(field)]
    check(not missing, f"{key}: {call.name} needs {', '.join(missing)}. Write {call.name}({(missing or [''])[0]}=...).")
    return encoder(**arguments)


def check_own_encoder(config: NetworkConfig, spec: EnvSpec) -> None:
    """Checks that the encoder takes the environment's observations and returns features, without computing any.

    Raises:
        ConfigError: if it does not; the message says what was found and what is expected.
    """
    encoder, key = make_own_encoder(config), f"network.encoder={config.encoder!r}"
    stacked = jax.eval_shape(lambda: opening_inputs(config, spec)[0])
    given = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape[2:]), x.dtype), stacked)

    def run(observation: PyTree) -> Any:
        return encoder.init_with_output(jax.random.key(0), observation)

    try:
        features, variables = jax.eval_shape(run, given)
    except Exception as error:
        raise ConfigError(f"{key} failed on observations {_describe(given)}: {_one_line(error)}") from error
    is_array = isinstance(features, jax.ShapeDtypeStruct)
    check(
        is_array and features.ndim == 2 and features.shape[0] == 2 and jnp.issubdtype(features.dtype, jnp.floating),
        f"{key} makes {_describe(features)} of observations {_describe(given)}; expected features [N, F] of floats.",
    )
    others = [name for name in variables if name != "params"]
    check(
        not others,
        f"{key} has variables {', '.join(others)}; expected parameters alone, as without dropout and running "
        "statistics.",
    )


def _find(module_name: str, name: str, key: str) -> type[nn.Module]:
    module = import_named(module_name, key)
    known = [each for each, value in vars(module).items() if _is_encoder(value) and value.__module__ == module_name]
    found = getattr(module, name, None)
    check(
        found is not None,
        f"{key}: module {module_name!r} has no {name!r}{did_you_mean(name, known)}"
        + (f" Flax modules in it: {', '.join(known)}." if known else ""),
    )
    what = "a class" if inspect.isclass(found) else f"of type {type(found).__name__}"
    check(_is_encoder(found), f"{key} is {what}, and no Flax module; expected a class derived from flax.linen.Module.")
    return found  # type: ignore[return-value]


def _is_encoder(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _describe(shapes: PyTree) -> str:
    """Describes arrays by dtype and shape, `float32[N, 4]`, with N for the environments where they come first."""
    if isinstance(shapes, Mapping):
        return "{" + ", ".join(f"{name}: {_describe(part)}" for name, part in shapes.items()) + "}"
    if not hasattr(shapes, "shape"):
        return f"a {type(shapes).__name__}"
    sides = ["N" if axis == 0 and side == 2 else str(side) for axis, side in enumerate(shapes.shape)]
    return f"{shapes.dtype}[{', '.join(sides)}]"


def _one_line(error: BaseException) -> str:
    return " ".join(describe_error(error).split())[:300]
