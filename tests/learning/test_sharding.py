"""Parameters that are split over devices: laid out by style or rule, the same results, less memory, few collectives."""

from collections import Counter
import dataclasses
import functools
import math
import re

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions
from podrl.assembly import make_split_agent
from podrl.config.config import Config, ConfigError
from podrl.experience.parameters import copy_to
from podrl.learning.learner import Learner
from podrl.learning.sharding import MIN_SPLIT_SIZE, describe_split, make_sharding_rules
from podrl.learning.update_cost import update_memory
from podrl.mesh import make_topology, path_name, trajectory_sharding
from podrl.runs.checkpoint import Checkpointer
from podrl.types import Counters, EnvSpec, LearnerState, Metrics, Snapshot, Trajectory
from tests.learning.test_learner import find_collectives, find_collectives_in_loops, shapes
from tests.processes import ROOT, error_lines, launch, read_rows
from tests.short_runs import facts, make_config, random_trajectory, run

ENVS = 16
VECTORS = EnvSpec(id="vectors", observation=jax.ShapeDtypeStruct((50,), np.float32), actions=DiscreteActions(3))
CONTROL = EnvSpec(id="control", observation=VECTORS.observation, actions=ContinuousActions(3))
IMAGES = EnvSpec(id="images", observation=jax.ShapeDtypeStruct((12, 12, 4), np.uint8), actions=DiscreteActions(3))
FRAMES = EnvSpec(id="frames", observation=jax.ShapeDtypeStruct((36, 36, 4), np.uint8), actions=DiscreteActions(3))
LEARNING_RATE = 6e-4
WHOLE = {"data": 1, "model": 1}
FSDP, TENSOR = {"data": 4, "style": "fsdp"}, {"model": 4, "style": "tensor"}
BOTH = {"data": 2, "model": 2, "style": "fsdp"}
LAYOUTS = {"whole": WHOLE, "fsdp": FSDP, "tensor": TENSOR, "both": BOTH}
STYLES = pytest.mark.parametrize("split", [FSDP, TENSOR, BOTH], ids=["fsdp", "tensor", "both"])


def wide_config(encoder: str = "mlp", *, data=1, model=1, style="auto", rules=(), **overrides) -> Config:
    memory = {"core": "lstm", "core_size": 128, "last_action": True} if encoder == "lstm" else {}
    return make_config(
        **{
            "network__encoder": "mlp" if encoder == "lstm" else encoder,
            "network__width": 1 if encoder in ("mlp", "lstm") else 4,
            "network__hidden_sizes": (512, 256, 128),
            "topology__learner_devices_per_process": data * model,
            "topology__model_devices": model,
            "topology__sharding": style,
            "topology__parameter_sharding": rules,
            "agent__optimizer__name": "adam",
            "agent__optimizer__learning_rate": LEARNING_RATE,
            "agent__optimizer__epsilon": 1e-3,  # With less, a rounding error near zero becomes a whole step.
            **{f"network__{name}": value for name, value in memory.items()},
            **overrides,
        }
    )


def learner_mesh(config: Config) -> Mesh:
    return make_topology(config.topology, jax.devices()[: config.topology.learner_devices_per_process]).learner


def spec_of(config: Config) -> EnvSpec:
    if config.agent.name == "sac":
        return CONTROL
    return {"mlp": VECTORS, "resnet": IMAGES, "nature": FRAMES}[config.network.encoder]


def make_learner(config: Config) -> Learner:
    mesh = learner_mesh(config)
    agent, rules = make_split_agent(config, spec_of(config), mesh)
    return Learner(agent, mesh, rules)


LEARNERS: dict[str, Learner] = {}


def shared_learner(config: Config) -> Learner:
    """One for all tests of a config, with what it compiled; not for `compile` and `compile_init`, which change it."""
    if (name := repr(config)) not in LEARNERS:
        LEARNERS[name] = make_learner(config)
    return LEARNERS[name]


@pytest.fixture(scope="module", autouse=True)
def what_tests_share_ends_with_the_module():
    yield
    LEARNERS.clear()
    for cached in (compile_update, train_whole, compile_whole_init):
        cached.cache_clear()


def make_batch(config: Config, length: int = 5, seed: int = 0) -> Trajectory:
    spec = spec_of(config)
    agent, _ = make_split_agent(config, spec, learner_mesh(config))
    return random_trajectory(agent, spec, length=length, num_envs=ENVS, seed=seed)


@functools.cache
def compile_update(encoder: str, style: str, length: int = 5) -> tuple[jax.stages.Compiled, Learner]:
    config = wide_config(encoder, **LAYOUTS[style])
    learner = make_learner(config)
    return learner.compile([shapes(make_batch(config, length))]), learner


def train(config: Config, num_updates: int = 3) -> tuple[LearnerState, Metrics]:
    learner, mesh = shared_learner(config), learner_mesh(config)
    state = learner.init(seed=3)
    for update in range(num_updates):
        batch = make_batch(config, seed=update)
        state, metrics = learner.update(state, [jax.device_put(batch, trajectory_sharding(mesh, batch))])
    return state, jax.device_get(metrics)


def plain(state: LearnerState) -> LearnerState:
    return jax.device_get(dataclasses.replace(state, key=jax.random.key_data(state.key)))


def layout(config: Config) -> dict[str, P]:
    """Where each parameter's dimensions go; the rest of the state must agree with it."""
    state = shared_learner(config).state_shape
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    specs = {path.removeprefix("params/"): x.sharding.spec for path, x in leaves.items() if path.startswith("params/")}
    for path, leaf in leaves.items():
        owner = next((name for name in specs if path.endswith(f"/{name}")), None)
        assert leaf.sharding.spec == (specs[owner] if owner else P()), path
    return {path: spec for path, spec in specs.items() if spec != P()}


class TestLayout:
    def test_tensor_alternates_between_output_and_input(self):
        assert layout(wide_config("mlp", **TENSOR)) == {
            "encoder/Dense_0/kernel": P(None, "model"),
            "encoder/Dense_1/kernel": P("model"),
            "encoder/Dense_2/kernel": P(None, "model"),
        }
        assert layout(wide_config("nature", **TENSOR)) == {
            "encoder/Conv_0/kernel": P(None, None, None, "model"),
            "encoder/Conv_1/kernel": P(None, None, "model"),
            "encoder/Conv_2/kernel": P(None, None, None, "model"),
            "encoder/Dense_0/kernel": P(None, "model"),
        }

    def test_tensor_splits_every_gate_of_an_lstm(self):
        found = layout(wide_config("lstm", **TENSOR))
        assert found == layout(wide_config("mlp", **TENSOR)) | {
            "core/input_kernel": P(None, None, "model"),
            "core/recurrent_kernel": P(None, None, "model"),
        }

    def test_tensor_splits_the_inside_of_residual_blocks_and_leaves_small_layers_whole(self):
        found = layout(wide_config("resnet", **TENSOR))
        blocks = [f"encoder/ResidualBlock_{index}/Conv_" for index in range(6)]
        outputs = {f"encoder/{name}/kernel": P(None, None, None, "model") for name in ("Conv_1", "Conv_2")}
        outputs |= {"encoder/Dense_0/kernel": P(None, "model")}
        outputs |= {f"{block}0/kernel": P(None, None, None, "model") for block in blocks}
        assert found == outputs | {f"{block}1/kernel": P(None, None, "model") for block in blocks}

    def test_fsdp_splits_the_largest_dimension_of_wide_parameters(self):
        assert layout(wide_config(**FSDP)) == {
            "encoder/Dense_0/kernel": P(None, "data"),
            "encoder/Dense_1/kernel": P("data"),
            "encoder/Dense_2/kernel": P("data"),
        }
        assert layout(wide_config(**BOTH)) == {
            "encoder/Dense_0/kernel": P("data", "model"),
            "encoder/Dense_1/kernel": P("model", "data"),
            "encoder/Dense_2/kernel": P("data", "model"),
        }

    def test_a_target_network_that_acts_is_split_like_the_parameters(self):
        """And V-MPO's duals, with the state of their optimizer, are whole: `layout` looks at every leaf."""
        config = wide_config("mlp", **FSDP, agent="vmpo")
        assert layout(config) == layout(wide_config("mlp", **FSDP))
        target = shared_learner(config).state_shape.extra["target"]["encoder"]["Dense_0"]["kernel"]
        assert target.sharding.spec == P(None, "data")

    def test_auto_is_tensor_only_where_there_is_a_model_axis_and_no_rule(self):
        assert layout(wide_config(model=4)) == layout(wide_config(**TENSOR))
        assert layout(wide_config(data=4)) == {}
        rules = ("Dense_1/kernel: -, model",)
        assert layout(wide_config(model=4, rules=rules)) == {"encoder/Dense_1/kernel": P(None, "model")}

    def test_rules_come_before_the_style(self):
        rules = ("Dense_1/kernel: data", "Dense_0/kernel: -", "^opt_state/.*policy/kernel: data")
        state = make_learner(wide_config(data=4, style="fsdp", rules=rules)).state_sharding
        assert state.params["encoder"]["Dense_1"]["kernel"].spec == P("data")
        assert state.params["encoder"]["Dense_0"]["kernel"].spec == P(None)
        assert state.params["encoder"]["Dense_2"]["kernel"].spec == P("data")
        assert state.params["policy"]["kernel"].spec == P()  # The rule is of its moments only.

    def test_one_device_needs_no_other_config(self):
        assert layout(wide_config(data=1, style="fsdp")) == {}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"model": 4, "style": "replicated"}, "model_devices=4 splits nothing with topology.sharding='replicated'"),
            ({"data": 4, "style": "tensor"}, "'tensor' splits layers over topology.model_devices, which is 1"),
            ({"data": 4, "rules": ("kernel",)}, "'kernel'; write 'EXPRESSION: AXIS"),
            ({"data": 4, "rules": (": data",)}, "': data'; write"),
            ({"data": 4, "rules": ("kernel: width",)}, "'kernel: width'; write"),
            ({"data": 4, "rules": ("(kernel: data",)}, "does not begin with a regular expression: missing \\)"),
            ({"data": 4, "rules": ("Conv_0: data",)}, "'Conv_0' decides about no parameter"),
            ({"data": 4, "rules": ("kernel: -", "Dense_0/kernel: -")}, "'Dense_0/kernel' decides about no"),
            ({"data": 4, "rules": ("policy/bias: -, -",)}, "lays out 2 dimensions of parameter .*policy/bias"),
            (
                {"data": 4, "rules": ("policy/kernel: -, data",)},
                r"policy/kernel has shape \(128, 3\): 3 does not divide over the 4 devices of mesh axis 'data'",
            ),
            (
                {"model": 4, "network__hidden_sizes": (512, 250, 250)},
                r"encoder/Dense_2/kernel has shape \(250, 250\), .* 4 devices of mesh axis 'model'. Change "
                "topology.model_devices, .*network.hidden_sizes.*'encoder/Dense_2/kernel: -'",
            ),
            (
                {"data": 4, "style": "fsdp", "network__hidden_sizes": (250, 250)},
                "4 devices of mesh axis 'data'. Change topology.learner_devices_per_process",
            ),
            (
                {"model": 2, "network__hidden_sizes": (64, 64)},
                "splits nothing: the largest parameter, encoder/Dense_1/kernel, has 4,096 elements.* 16,384 stay",
            ),
        ],
    )
    def test_what_cannot_be_is_named_with_its_key(self, options, message):
        with pytest.raises(ConfigError, match=message) as error:
            make_learner(wide_config(**options))
        assert "\n" not in str(error.value)

    def test_an_unknown_style_lists_the_others(self):
        with pytest.raises(ConfigError, match=r"topology\.sharding='fspd' is not known; did you mean 'fsdp'"):
            wide_config(style="fspd")

    def test_it_is_described_in_one_line(self):
        state = shared_learner(wide_config(**FSDP)).state_shape
        assert describe_split(state.params) == "3 of 10 parameters, 99.3% of their bytes, split over 4 devices"
        assert describe_split(make_learner(wide_config(data=4)).state_shape.params).startswith(
            "10 parameters, whole on"
        )


SAC = {"agent": "sac", "network__squash_actions": True, "network__hidden_sizes": (256, 256)}


@pytest.mark.parametrize("split", [FSDP, pytest.param(BOTH, marks=pytest.mark.slow)], ids=["fsdp", "both"])
def test_policy_critics_targets_and_the_moments_of_each_optimizer_are_split(split):
    """`layout` holds the rest of the state to the parameters' own."""
    epsilons = {f"agent__{name}optimizer__epsilon": 1e-3 for name in ("", "critic_", "temperature_")}
    config = wide_config(**SAC, **epsilons, **split)
    assert {path for path in layout(config) if path.endswith("Dense_1/kernel")} == {
        "policy/encoder/Dense_1/kernel",
        "critic/q_0/Dense_1/kernel",
        "critic/q_1/Dense_1/kernel",
    }
    (state, _), (whole, _) = train(config), train(wide_config(**SAC, **epsilons, **WHOLE))
    for x, y in zip(jax.tree.leaves(plain(whole).params), jax.tree.leaves(plain(state).params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * max(np.abs(x).max(), LEARNING_RATE))


@functools.cache
def train_whole(encoder: str, optimizer: str) -> tuple[LearnerState, Metrics]:
    return train(wide_config(encoder, **WHOLE, agent__optimizer__name=optimizer, agent__minibatches=2))


@STYLES
@pytest.mark.parametrize(
    ("encoder", "optimizer"),
    [("mlp", "adam"), ("mlp", "rmsprop"), ("lstm", "adam")],
)
def test_updates_of_split_parameters_are_those_of_whole_ones(encoder, optimizer, split):
    """Parameters and the optimizer's moments, after several updates, relative to the largest number of each array.

    Of a parameter that is still close to zero, relative to the step that an update takes.
    """
    state, metrics = train(wide_config(encoder, **split, agent__optimizer__name=optimizer, agent__minibatches=2))
    whole, whole_metrics = train_whole(encoder, optimizer)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(plain(whole)), jax.tree.leaves(plain(state)), strict=True
    ):
        scale = max(np.abs(x).max(), LEARNING_RATE if path_name(path).startswith("params/") else 0.0) or 1.0
        np.testing.assert_allclose(x / scale, y / scale, atol=1e-5, err_msg=path_name(path))
    for name, value in whole_metrics.items():  # The gradient's norm among them, which clipping hides from the rest.
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "split",
    [
        pytest.param(FSDP, marks=pytest.mark.long),
        pytest.param(TENSOR, marks=pytest.mark.long),
        pytest.param(BOTH, marks=pytest.mark.slow),
    ],
    ids=["fsdp", "tensor", "both"],
)
def test_an_update_of_a_split_resnet_is_that_of_a_whole_one(split):
    """Of parameters as they are born and as one update left them: norms of the differences, relative to each array's.

    For a parameter, relative to what the update changed.

    Most are a millionth. But of the ResNet's million rectified numbers, one that is zero but for rounding may be
    positive in one layout alone; then gradients of the layers before it differ by up to a hundredth. After that nothing
    is comparable: each update here begins with the same parameters in both layouts.
    """
    whole_config, split_config = wide_config("resnet", **WHOLE), wide_config("resnet", **split)
    state = make_learner(whole_config).init(seed=3)
    for seed in range(2):
        before = jax.tree.leaves(plain(state))
        whole, whole_metrics = update_once(whole_config, state, seed)
        parts, metrics = update_once(split_config, state, seed)
        found = jax.tree.leaves(plain(parts))
        for (path, x), y, start in zip(jax.tree_util.tree_leaves_with_path(plain(whole)), found, before, strict=True):
            is_parameter = path_name(path).startswith("params/")
            scale = np.linalg.norm(x - start) or LEARNING_RATE if is_parameter else np.linalg.norm(x) or 1.0
            assert np.linalg.norm(x - y) < 0.03 * scale, path_name(path)
        for name, value in whole_metrics.items():
            np.testing.assert_allclose(metrics[name], value, rtol=0.01, atol=1e-5, err_msg=name)
        state = whole


def update_once(config: Config, state: LearnerState, seed: int) -> tuple[LearnerState, Metrics]:
    """An update of a copy of `state`, laid out as `config` says."""
    learner, batch = shared_learner(config), make_batch(config, seed=seed)
    copied = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, learner.state_shape), may_alias=False)
    return learner.update(copied, [jax.device_put(batch, trajectory_sharding(learner_mesh(config), batch))])


@pytest.mark.slow
def test_minibatches_of_rows_learn_with_split_parameters_what_they_learn_with_whole_ones():
    """PPO's steps are in a loop, and its network evaluates chosen rows. Only whole parameters are gathered."""
    rows = {"agent__shuffle": "time", "agent__minibatches": 5, "agent__epochs": 1, "agent__optimizer__epsilon": 1e-3}
    config = make_config(agent="ppo", network__hidden_sizes=(512, 256), **rows)
    topology = dataclasses.replace(config.topology, learner_devices_per_process=4, sharding="fsdp")
    split = dataclasses.replace(config, topology=topology)
    alone = dataclasses.replace(topology, learner_devices_per_process=1, sharding="replicated")
    whole, whole_metrics = train(dataclasses.replace(config, topology=alone), num_updates=2)
    state, metrics = train(split, num_updates=2)
    wide = {x.size for x in jax.tree.leaves(state.params) if x.sharding.spec != P()}
    found = flat(make_learner(split).compile([shapes(make_batch(split))]))
    assert {size for kind, size in found if kind == "all-gather"} == wide
    assert wide
    for x, y in zip(jax.tree.leaves(plain(whole).params), jax.tree.leaves(plain(state).params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * max(np.abs(x).max(), LEARNING_RATE))
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_updates_change_every_parameter():
    before = plain(shared_learner(wide_config(**WHOLE)).init(seed=3))
    after = plain(train_whole("mlp", "adam")[0])
    for x, y in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        assert np.abs(x - y).max() > 1e-5


class TestBirth:
    @STYLES
    def test_no_device_ever_holds_a_whole_wide_parameter(self, split):
        learner = make_learner(wide_config(**split))
        compiled, whole_compiled = learner.compile_init(), compile_whole_init()
        for found, expected in zip(
            jax.tree.leaves(compiled.output_shardings), jax.tree.leaves(learner.state_shape), strict=True
        ):
            assert found.is_equivalent_to(expected.sharding, expected.ndim)
        widest = max(leaf.size for leaf in jax.tree.leaves(learner.state_shape.params))
        assert largest_array(whole_compiled) >= widest
        assert largest_array(compiled) <= widest / 2
        memories = [program.memory_analysis() for program in (compiled, whole_compiled)]
        sizes = [memory.temp_size_in_bytes + memory.output_size_in_bytes for memory in memories]
        assert sizes[0] < 0.35 * sizes[1]

    @STYLES
    def test_the_numbers_and_their_fingerprint_are_those_of_whole_ones(self, split):
        states, prints = [], []
        for devices in (WHOLE, split):
            config = wide_config(**devices)
            learner, batch = shared_learner(config), make_batch(config)
            state = learner.init(seed=3)
            placed = jax.device_put(batch, trajectory_sharding(learner_mesh(config), batch))
            prints.append(np.asarray(learner.fingerprint(state, [placed])))
            states.append(plain(state))
        jax.tree.map(np.testing.assert_array_equal, *states)
        np.testing.assert_array_equal(*prints)


@functools.cache
def compile_whole_init() -> jax.stages.Compiled:
    return make_learner(wide_config(**WHOLE)).compile_init()


def largest_array(compiled: jax.stages.Compiled) -> int:
    """Elements of the largest array of floats that a program holds on a device."""
    shapes = re.findall(r"f32\[([\d,]*)\]", compiled.as_text())
    return max(math.prod(int(n) for n in dims.split(",") if n) for dims in shapes)


def test_the_copy_for_actors_is_whole_and_equal_on_every_learner_device():
    learner = shared_learner(wide_config(**FSDP))
    state = learner.init(seed=3)
    copies = learner.actor_params(state)
    wanted = plain(state).params
    for device in learner_mesh(wide_config(**FSDP)).devices.flat:
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(copy_to(copies, device)), wanted)
    elsewhere = copy_to(copies, jax.devices()[7])
    assert {device.id for leaf in jax.tree.leaves(elsewhere) for device in leaf.devices()} == {7}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(elsewhere), wanted)


@pytest.mark.parametrize(("saved", "restored"), [(TENSOR, WHOLE), (WHOLE, TENSOR), (FSDP, BOTH), (TENSOR, FSDP)])
def test_a_checkpoint_goes_from_one_layout_to_another_bit_for_bit(tmp_path, saved, restored):
    state, _ = train(wide_config(**saved), num_updates=2)
    snapshot = Snapshot(state=state, counters=Counters(learner_steps=2), episodes={})
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(snapshot)
    learner = shared_learner(wide_config(**restored))
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        found = checkpointer.restore(learner.state_shape, 2).state
    jax.tree.map(np.testing.assert_array_equal, plain(found), plain(state))
    for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(learner.state_shape), strict=True):
        assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim)


class TestCompiledUpdate:
    @pytest.mark.slow
    @pytest.mark.parametrize("style", ["fsdp", "tensor"])
    def test_the_state_takes_a_quarter_of_the_memory_and_temporaries_fall(self, style):
        whole, part = (
            update_memory(compiled, learner.state_shape)
            for compiled, learner in (compile_update("resnet", name) for name in ("whole", style))
        )
        assert part.state_bytes < 0.27 * whole.state_bytes
        assert part.argument_bytes - part.state_bytes <= whole.argument_bytes - whole.state_bytes + 1000
        assert part.temporary_bytes < 0.8 * whole.temporary_bytes
        assert part.output_bytes < 10_000  # Metrics; the new state takes the place of the old one.

    @pytest.mark.parametrize("encoder", ["mlp", "lstm", pytest.param("resnet", marks=pytest.mark.slow)])
    def test_fsdp_gathers_parameters_and_reduces_gradients_whatever_the_batch(self, encoder):
        compiled, learner = compile_update(encoder, "fsdp")
        found = Counter(flat(compiled))
        assert found == Counter(flat(compile_update(encoder, "fsdp", length=9)[0]))
        assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
        wide = Counter(leaf.size for leaf in jax.tree.leaves(learner.state_shape.params) if leaf.size >= MIN_SPLIT_SIZE)
        gathered = Counter({size: count for (kind, size), count in found.items() if kind == "all-gather"})
        assert gathered == wide, "each wide parameter is gathered once, and nothing else"
        assert max(size for _, size in found) == max(wide)
        assert not find_collectives_in_loops(compiled)

    @pytest.mark.parametrize("encoder", ["mlp", pytest.param("resnet", marks=pytest.mark.slow)])
    def test_tensor_moves_activations_and_no_wide_parameter_nor_frames(self, encoder):
        compiled, learner = compile_update(encoder, "tensor")
        found, longer = flat(compiled), flat(compile_update(encoder, "tensor", length=9)[0])
        assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
        wide = {leaf.size for leaf in jax.tree.leaves(learner.state_shape.params) if leaf.size >= MIN_SPLIT_SIZE}
        assert not wide & {size for _, size in found}
        growth = sum(size for _, size in longer) / sum(size for _, size in found)
        assert 1.2 < growth < 1.7  # 10 rows instead of 6: nearly all of it is activations.
        assert not re.search(r"u8\[[\d,]*\]\S* (all|reduce|collective)-", compiled.as_text())

    def test_an_lstms_devices_exchange_its_hidden_state_once_for_each_time_step(self):
        """Forward they gather it, and backward they add up their shares of its gradient."""
        compiled, learner = compile_update("lstm", "tensor")
        state = ENVS * learner.state_shape.params["core"]["recurrent_kernel"].shape[0]
        assert sorted(find_collectives_in_loops(compiled)) == [("all-gather", [state]), ("all-reduce", [state])]
        wide = {leaf.size for leaf in jax.tree.leaves(learner.state_shape.params) if leaf.size >= MIN_SPLIT_SIZE}
        assert not wide & {size for _, size in flat(compiled)}

    @pytest.mark.slow
    def test_left_alone_the_compiler_moves_more_the_longer_the_batch(self):
        """Why `gather_for_use` is there."""
        config = wide_config(**FSDP)
        agent, _ = make_split_agent(wide_config(data=4), VECTORS, learner_mesh(config))
        rules = make_sharding_rules(config, learner_mesh(config), jax.eval_shape(agent.init, jax.random.key(0)).params)
        batches = [shapes(make_batch(config, length)) for length in (3, 9)]
        short, long = (Counter(flat(Learner(agent, learner_mesh(config), rules).compile([batch]))) for batch in batches)
        assert short != long


def flat(compiled: jax.stages.Compiled) -> list[tuple[str, int]]:
    """(kind, element count) of everything that crosses between devices."""
    return [(kind, size) for kind, sizes in find_collectives(compiled) for size in sizes]


def test_a_run_with_split_parameters_is_the_same_run_twice():
    split = {"topology__sharding": "fsdp", "topology__learner_devices_per_process": 4, "agent__optimizer__name": "adam"}
    config = make_config(network__hidden_sizes=(256, 256), **split)
    first, second = (facts(run(config, num_devices=5)[1]) for _ in range(2))
    assert len(first) > 5
    assert first == second


def test_the_command_trains_on_two_actor_and_two_model_devices_and_says_what_is_split(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
    config = ("--config", ROOT / "configs/impala_catch.py", "--smoke", "--config.network.hidden_sizes=(256,256)")
    result = launch(*config, "--config.topology.model_devices=2", "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 process x 4 cpu devices: 2 act, 2 learn" in result.stderr
    assert "Learner: 1 of 8 parameters, 82.0% of their bytes, split over 2 devices." in result.stderr
    assert re.search(r"An update on each of 2 learner devices: state \S+ [KM]iB, batch \S+ [KM]iB, temp", result.stderr)
    assert len(read_rows(tmp_path / "run")) == 6
    refused = launch(*config, "--config.topology.model_devices=3", cwd=tmp_path)
    assert refused.returncode == 2
    assert "model_devices=3 does not divide the 2 learner devices" in refused.stderr
    assert not error_lines(refused.stderr)
