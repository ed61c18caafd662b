"""How parameters and optimizer state are split over the learner's devices: two styles, and rules from the config.

`fsdp` (fully sharded data parallelism) splits every wide parameter over the mesh axis `data`, which also splits the
batch. A parameter is gathered before its use, and its gradient is summed and split again, so the traffic is that of the
parameters, whatever the batch. `tensor` splits every wide layer over the axis `model`, along which the batch is whole:
alternately by the kernel's output dimension, after which each device has its share of the features, and by its input
dimension, after which the devices' results are added. Its traffic is that of activations. `fsdp` with a model axis does
both.

A style becomes one path rule (`podrl.mesh.ShardingRule`) per parameter. Optimizer moments and target networks, whose
paths end in their parameter's path, are therefore laid out like it.

Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 5.3; Shoeybi et al. 2019 (Megatron-LM),
arXiv:1909.08053, section 3.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from podrl.config.config import Config, ConfigError, TopologyConfig, check
from podrl.mesh import ShardingRule, find_rule, path_name
from podrl.networks.available import make_networks
from podrl.networks.interface import AnyNetwork, Networks
from podrl.types import EnvSpec, PyTree

# Elements. A style leaves smaller parameters whole: they take little memory, and each would cost a collective.
MIN_SPLIT_SIZE = 2**14

# For each encoder, the kernels that `tensor` splits by input; it splits all others by output. A layer that is split by
# input follows one that is split by output. In a residual block this leaves the block's sum whole.
_BY_INPUT = {
    "mlp": r"(^|/)(encoder|q_\d)/Dense_\d*[13579]/kernel$",
    "nature": r"(^|/)encoder/Conv_1/kernel$",
    "resnet": r"(^|/)encoder/ResidualBlock_\d+/Conv_1/kernel$",
}


def make_split_networks(
    config: Config, spec: EnvSpec, learner: Mesh, params_of: Callable[[Networks], PyTree]
) -> tuple[Networks, list[ShardingRule]]:
    """Makes the networks for a learner whose parameters are split by `topology.sharding` and its rules.

    Args:
        config: The run's config.
        spec: The spec of its environment.
        learner: The learner's devices.
        params_of: Returns the shapes of the parameters of an agent with these networks.

    Returns:
        The networks that the agent learns with (see `gather_for_use`), and the rules that lay out its state.

    Raises:
        ConfigError: If `make_sharding_rules` or `make_network` raises it.
    """
    networks = make_networks(config.network, spec, layers_are_split=config.topology.model_devices > 1)
    rules = make_sharding_rules(config, learner, params_of(networks))
    return networks.map(lambda network: gather_for_use(network, learner, rules)), rules


def make_sharding_rules(config: Config, learner: Mesh, params: PyTree) -> list[ShardingRule]:
    """Returns the rules of `topology.parameter_sharding`, then one per other parameter that `topology.sharding` splits.

    Args:
        config: The run's config.
        learner: The learner's devices.
        params: The network's parameters or their shapes.

    Raises:
        ConfigError: If a rule is not of the form `EXPRESSION: AXIS, AXIS`, if a wide parameter does not divide, or if
            the config asks for a split and no parameter would be split.
    """
    topology = config.topology
    rules = _parse_rules(topology)
    style = _resolve_style(topology)
    if style == "replicated" or learner.size == 1:
        return rules
    sizes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    by_input = _by_input(config.network.encoder)
    made: list[ShardingRule] = []
    for path, shape in sizes.items():
        if math.prod(shape) >= MIN_SPLIT_SIZE and find_rule(path, rules) is None:
            prefers_input = bool(re.search(by_input, path))
            made.append((f"(^|/){re.escape(path)}$", _split(path, shape, style, learner, prefers_input=prefers_input)))
    largest = max(sizes, key=lambda path: math.prod(sizes[path]))
    check(
        bool(made or rules),
        f"topology.sharding={topology.sharding!r} with topology.model_devices={topology.model_devices} splits nothing: "
        f"the largest parameter, {largest}, has {math.prod(sizes[largest]):,} elements, and those of fewer than "
        f"{MIN_SPLIT_SIZE:,} stay whole. Widen the network (network.hidden_sizes, network.width), or use "
        "topology.model_devices=1 and topology.sharding=replicated.",
    )
    return rules + made


def _by_input(encoder: str) -> str:
    """Returns the kernels that are split by input, also of the encoders of an observation's parts."""
    own, others = _BY_INPUT.get(encoder, "(?!)"), _BY_INPUT["mlp"]
    of_parts = own.replace("encoder/", "encoder/images_[^/]+/"), others.replace("(encoder|", "(encoder/others|")
    return "|".join((own, *of_parts))


def gather_for_use(network: AnyNetwork, learner: Mesh, rules: Sequence[ShardingRule]) -> AnyNetwork:
    """Returns the network in a form that learns from parameters split by `rules`.

    `unroll`, `rows` and a model's functions, where it has them, gather each parameter over the axis `data` before its
    use, and split its gradient as the parameter is split. Otherwise XLA gathers the batch when a parameter is split
    over the batch's own axis.
    """
    if not rules:
        return network

    def gather_leaf(path: tuple, param: jax.Array) -> jax.Array:
        rule = find_rule(path_name(path), rules)
        stored = PartitionSpec() if rule is None else rule[1]
        return _gather(NamedSharding(learner, _without_data(stored)), NamedSharding(learner, stored), param)

    def gathered(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *args: function(jax.tree_util.tree_map_with_path(gather_leaf, params), *args)

    record: Any = network
    own = ("unroll", "rows", "transition", "predict", "values", "project")
    functions = {name: getattr(record, name, None) for name in own}
    return dataclasses.replace(record, **{name: gathered(found) for name, found in functions.items() if found})


def describe_split(params: PyTree) -> str:
    """Describes the split in one line: `15 of 36 parameters, 99.9% of their bytes, split over 4 devices`.

    Args:
        params: Arrays, or shapes with shardings.
    """
    leaves = jax.tree.leaves(params)
    split = [leaf for leaf in leaves if _num_parts(leaf) > 1]
    if not split:
        return f"{len(leaves)} parameters, whole on every learner device"
    share = sum(map(_size_bytes, split)) / sum(map(_size_bytes, leaves))
    over = " or ".join(str(parts) for parts in sorted({_num_parts(leaf) for leaf in split}))
    return f"{len(split)} of {len(leaves)} parameters, {share:.1%} of their bytes, split over {over} devices"


def _parse_rules(topology: TopologyConfig) -> list[ShardingRule]:
    parsed = []
    for rule in topology.parameter_sharding:
        pattern, colon, axes = rule.rpartition(":")
        names = [axis.strip() for axis in axes.split(",")]
        check(
            bool(colon and pattern.strip()) and all(name in ("-", "data", "model") for name in names),
            f"topology.parameter_sharding has {rule!r}; write 'EXPRESSION: AXIS, AXIS' with an axis of data, model or "
            "- for each dimension, such as 'encoder/Dense_0/kernel: -, model'.",
        )
        try:
            re.compile(pattern.strip())
        except re.error as error:
            raise ConfigError(
                f"topology.parameter_sharding has {rule!r}, which does not begin with a regular expression: {error}."
            ) from None
        parsed.append((pattern.strip(), PartitionSpec(*(None if name == "-" else name for name in names))))
    return parsed


def _resolve_style(topology: TopologyConfig) -> str:
    """Returns how to lay out parameters that no rule matches: `replicated`, `tensor` or `fsdp`."""
    style, rules = topology.sharding, topology.parameter_sharding
    if style == "auto":
        return "tensor" if topology.model_devices > 1 and not rules else "replicated"
    check(
        style != "tensor" or topology.model_devices > 1,
        "topology.sharding='tensor' splits layers over topology.model_devices, which is 1. Set it to a divisor of the "
        "learner devices of each process, or use topology.sharding=fsdp, which splits over all of them.",
    )
    check(
        style != "replicated" or topology.model_devices == 1 or bool(rules),
        f"topology.model_devices={topology.model_devices} splits nothing with topology.sharding='replicated': these "
        "devices would all do the same. Use topology.sharding=tensor, or topology.model_devices=1.",
    )
    return style


def _split(path: str, shape: tuple[int, ...], style: str, learner: Mesh, *, prefers_input: bool) -> PartitionSpec:
    """Returns the layout of one wide parameter."""
    axes: list[str | None] = [None] * len(shape)
    if learner.shape["model"] > 1 and len(shape) > 1:
        preferred = (-2, -1) if prefers_input else (-1, -2)
        dimension = _first_divisible([d % len(shape) for d in preferred], shape, learner.shape["model"])
        _check_splits(dimension, path, shape, "model", learner, "topology.model_devices")
        axes[dimension] = "model"
    if style == "fsdp" and learner.shape["data"] > 1:
        largest = sorted((d for d in range(len(shape)) if axes[d] is None), key=lambda d: -shape[d])
        dimension = _first_divisible(largest, shape, learner.shape["data"])
        if "model" not in axes:
            _check_splits(dimension, path, shape, "data", learner, "topology.learner_devices_per_process")
        if dimension >= 0:
            axes[dimension] = "data"
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes)


def _first_divisible(dimensions: Sequence[int], shape: tuple[int, ...], parts: int) -> int:
    """Returns the first of these dimensions whose size divides by `parts`; -1 if none does."""
    return next((dimension for dimension in dimensions if shape[dimension] % parts == 0), -1)


def _check_splits(dimension: int, path: str, shape: tuple[int, ...], axis: str, learner: Mesh, key: str) -> None:
    check(
        dimension >= 0,
        f"Parameter {path} has shape {shape}, of which no dimension that may be split divides over the "
        f"{learner.shape[axis]} devices of mesh axis {axis!r}. Change {key}, the network's size (network.hidden_sizes, "
        f"network.width), or leave it whole with topology.parameter_sharding=('{path}: -',).",
    )


def _without_data(spec: PartitionSpec) -> PartitionSpec:
    return PartitionSpec(*(None if axes == "data" else axes for axes in spec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(used: NamedSharding, stored: NamedSharding, param: jax.Array) -> jax.Array:
    """Lays the parameter out as `used`, and its gradient, the sum over devices, as `stored`."""
    return jax.lax.with_sharding_constraint(param, used)


def _gather_forward(used: NamedSharding, stored: NamedSharding, param: jax.Array) -> tuple[jax.Array, None]:
    return _gather(used, stored, param), None


def _gather_backward(used: NamedSharding, stored: NamedSharding, _: None, grad: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(grad, stored),)


_gather.defvjp(_gather_forward, _gather_backward)


def _num_parts(leaf: jax.ShapeDtypeStruct | jax.Array) -> int:
    """Returns over how many devices a leaf is split; copies do not count."""
    sharding = leaf.sharding
    return 1 if sharding is None else math.prod(leaf.shape) // math.prod(sharding.shard_shape(leaf.shape))


def _size_bytes(leaf: jax.ShapeDtypeStruct | jax.Array) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize
