"""What podrl makes of Gymnasium's observations: images, pixels, boards and odd spaces."""

import gymnasium
from gymnasium import spaces
import jax
import numpy as np
import pytest

from podrl.actions import DiscreteActions, num_logits
from podrl.config.config import ConfigError, EnvConfig, NetworkConfig
from podrl.envs.encodings import MAX_ONE_HOT, channels_come_first
from podrl.envs.observations import describe_observation, make_encoding
from podrl.envs.source import load_source
from podrl.envs.sources.gymnasium import make_pool, make_spec
from podrl.envs.spaces import make_action_encoding
from podrl.envs.workers.batch import stack
from podrl.networks.actor_critic import make_actor_critic
from podrl.saved_run import open_run
from podrl.train import train
from podrl.types import EnvSpec
from tests import short_runs
from tests.faults.checkpoints import edit, unseal


def config_of(**settings):
    return EnvConfig(source="gymnasium", id="Test-v0", **settings)


def pixels(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def encode(space, observations, **settings):
    """The encoding, and what it makes of these observations."""
    encoding = make_encoding(space, config_of(**settings))
    encoded = encoding.encode(stack(space, observations))
    assert encoded.shape == (len(observations), *encoding.struct.shape)
    assert encoded.dtype == encoding.struct.dtype
    assert encoded.flags.c_contiguous
    return encoding, encoded


class TestPixels:
    """255 counts as 1, whatever the shape that pixels come in."""

    def seen(self, space, observations, **settings):
        """What the first layer of a network sees."""
        encoding, encoded = encode(space, observations, **settings)
        divisor = 255 if encoded.dtype == np.uint8 else 1  # As `podrl.networks.encoders.scale_pixels` has it.
        return encoding, encoded.reshape(len(encoded), -1) / np.float32(divisor)

    @pytest.mark.parametrize("shape", [(), (6,), (4, 6), (4, 6, 1), (1, 4, 6), (4, 5, 6, 3), (2, 4, 5, 6, 3)], ids=str)
    def test_of_any_rank(self, shape):
        space = pixels(*shape)
        space.seed(0)
        drawn = [space.sample() for _ in range(3)]
        encoding, seen = self.seen(space, drawn)

        np.testing.assert_allclose(seen, np.reshape(drawn, (3, -1)) / np.float32(255), rtol=1e-6)
        assert encoding.struct.dtype == np.uint8  # A quarter of the bytes of floats, on their way to the devices.

    @pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (1, 4, 6), (24,)], ids=str)
    def test_beside_other_entries(self, shape):
        space = spaces.Dict(clock=spaces.Box(0, 9, (1,), np.float32), image=pixels(*shape), kind=spaces.Discrete(2))
        space.seed(0)
        drawn = [space.sample() for _ in range(3)]
        _, seen = self.seen(space, drawn, parts="joined")

        for row, raw in zip(seen, drawn, strict=True):
            expected = [raw["clock"], raw["image"].ravel() / np.float32(255), np.eye(2)[raw["kind"]]]
            np.testing.assert_allclose(row, np.concatenate(expected), rtol=1e-6)

    def test_flags_and_small_numbers_of_the_same_type_are_none(self):
        flags, board = spaces.Box(0, 1, (3,), np.uint8), spaces.Box(0, 4, (5, 5, 2), np.uint8)
        for space, value in ((flags, 1), (board, 4)):
            encoding, seen = self.seen(space, [np.full(space.shape, value, np.uint8)])
            np.testing.assert_array_equal(seen, np.full((1, space.low.size), value))
            assert encoding.struct.dtype == np.float32
        assert make_encoding(board, config_of()).struct.shape == (5, 5, 2)

    def test_a_key_decides_otherwise(self):
        view, flags = np.full((7, 7, 3), 10, np.uint8), np.ones((5, 5, 2), np.uint8)
        grid = spaces.Dict(direction=spaces.Discrete(4), view=pixels(7, 7, 3))
        _, seen = self.seen(grid, [{"direction": 0, "view": view}], uint8="numbers", parts="joined")
        assert seen.max() == 10
        assert self.seen(pixels(7, 7, 3), [view], uint8="numbers")[1].max() == 10
        sloppy = spaces.Box(0, 1, (5, 5, 2), np.uint8)
        np.testing.assert_allclose(self.seen(sloppy, [255 * flags], uint8="pixels")[1], 1)

    def test_gymnasiums_own_preprocessing_is_an_image(self):
        assert make_encoding(pixels(84, 84), config_of()).struct == jax.ShapeDtypeStruct((84, 84, 1), np.uint8)


class TestChannels:
    """Which side of an image counts channels."""

    @pytest.mark.parametrize(
        ("shape", "is_first"),
        [
            ((84, 84, 1), False),
            ((84, 84, 4), False),
            ((210, 160, 3), False),
            ((72, 96, 4), False),
            ((1, 84, 84), True),
            ((4, 84, 84), True),
            ((12, 84, 84), True),
            ((3, 210, 160), True),
            ((3, 12, 16), True),
            ((7, 7, 3), False),
            ((7, 7, 20), False),
            ((8, 8, 119), False),
            ((4, 4, 31), False),
            ((6, 7, 20), False),
            ((9, 10, 14), False),
            ((20, 7, 7), True),
            ((119, 8, 8), True),
            ((4, 10, 10), True),
            ((5, 5, 5), False),
            ((1, 1, 5), False),
        ],
        ids=str,
    )
    def test_photographs_and_boards(self, shape, is_first):
        assert channels_come_first(shape) == is_first
        space = pixels(*shape)
        space.seed(0)
        drawn = space.sample()
        encoding, encoded = encode(space, [drawn])
        np.testing.assert_array_equal(encoded[0], np.moveaxis(drawn, 0, -1) if is_first else drawn)
        sides = "x".join(map(str, shape))
        assert encoding.text.startswith(f"image {sides}, channels {'first' if is_first else 'last'}, ")

    @pytest.mark.parametrize("channels", ["first", "last"])
    def test_a_key_decides_otherwise(self, channels):
        for shape in ((7, 7, 20), (20, 7, 7), (6, 7, 20)):
            drawn = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
            encoding, encoded = encode(pixels(*shape), [drawn], channels=channels)
            np.testing.assert_array_equal(encoded[0], np.moveaxis(drawn, 0, -1) if channels == "first" else drawn)
            assert f"channels {channels}" in encoding.text

    @pytest.mark.parametrize(
        "space",
        [spaces.Box(0, 1, (10, 10, 4), bool), spaces.Box(-1, 1, (10, 10, 4)), spaces.MultiBinary((10, 10, 4))],
        ids=str,
    )
    def test_boards_of_other_types_are_images_where_a_key_says_so(self, space):
        space.seed(0)
        drawn = space.sample()
        flat, image = encode(space, [drawn])[0], encode(space, [drawn], channels="last")
        assert (flat.struct.shape, "an image with env.channels=last" in flat.text) == ((400,), True)
        np.testing.assert_array_equal(image[1][0], drawn.astype(np.float32))

    def test_a_key_that_means_nothing_is_refused(self):
        with pytest.raises(ConfigError, match=r"env.channels='middle' is not known.* Available: auto, first, last"):
            config_of(channels="middle")
        with pytest.raises(ConfigError, match=r"env.uint8='pixel' is not known; did you mean 'pixels'"):
            config_of(uint8="pixel")


def test_every_source_says_what_it_understood():
    breakout = load_source("envpool").make_spec(EnvConfig(id="Breakout-v5"))
    board = make_spec(EnvConfig(source="gymnasium", id="tests.envs.test_observations:Board"))

    assert describe_observation(breakout) == "image 1x84x84, channels first, pixels (255 counts as 1)"
    assert describe_observation(board) == "image 7x7x20, channels last, pixels (255 counts as 1)"
    assert describe_observation(EnvSpec(id="A", observation=jax.ShapeDtypeStruct((3,), np.float32), actions=None)) == (
        "float32[3]"
    )


class Board(gymnasium.Env):
    """A board with a plane for each kind of piece, channels last, as MiniGrid's wrapper gives it."""

    observation_space = pixels(7, 7, 20)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (spaces.Dict(image=pixels(48, 48, 1), clock=spaces.Box(0, 1, (1,))), r"image: uint8\[48, 48, 1\] as a vector"),
        (spaces.Box(0, 1, (48, 48, 3)), r"float32\[48, 48, 3\] as a vector of 6912 \(an image with env.channels=last"),
        (pixels(4, 48, 48, 3), r"uint8\[4, 48, 48, 3\] as a vector"),
        (pixels(20, 30), "image 20x30, one channel"),
    ],
    ids=["dict", "floats", "stack", "small"],
)
def test_an_encoder_that_needs_images_names_what_the_environment_gives(space, shown):
    encoding = make_encoding(space, config_of(parts="joined"))
    spec = EnvSpec(id="A", observation=encoding.struct, actions=DiscreteActions(2), observed=encoding.text)
    with pytest.raises(ConfigError, match=rf"network.encoder='nature' needs images .* gives .*{shown}"):
        make_actor_critic(NetworkConfig(encoder="nature"), spec)


@pytest.mark.parametrize("space", [pixels(48, 48), pixels(48, 48, 1), pixels(1, 48, 48)], ids=str)
def test_gray_images_of_any_form_suit_an_encoder_of_images(space):
    encoding = make_encoding(space, config_of())
    make_actor_critic(
        NetworkConfig(encoder="nature"), EnvSpec(id="A", observation=encoding.struct, actions=DiscreteActions(2))
    )


class TestParts:
    """An image beside other entries stays an image; these are one vector."""

    SPACE = spaces.Dict(
        arm=spaces.Dict(angles=spaces.Box(-1, 1, (3,)), grip=spaces.Discrete(2)),
        eyes=spaces.Tuple((pixels(8, 8, 3), pixels(1, 8, 8))),
        nothing=spaces.Box(0, 1, (0,)),
    )

    def seen(self, space, observations, **settings):
        encoding = make_encoding(space, config_of(**settings))
        encoded = encoding.encode(stack(space, observations))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(observations), *x.shape), x.dtype), encoding.struct)
        assert jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), encoded) == shapes
        assert all(x.flags.c_contiguous for x in jax.tree.leaves(encoded))
        return encoding, encoded

    def draw(self, space):
        space.seed(0)
        return [space.sample() for _ in range(3)]

    def test_nested_dictionaries_and_tuples(self):
        drawn = self.draw(self.SPACE)
        encoding, seen = self.seen(self.SPACE, drawn)

        assert sorted(seen) == ["eyes/0", "eyes/1", "vector"]
        for row, raw in enumerate(drawn):
            np.testing.assert_array_equal(seen["eyes/0"][row], raw["eyes"][0])
            np.testing.assert_array_equal(seen["eyes/1"][row], np.moveaxis(raw["eyes"][1], 0, -1))
            vector = [raw["arm"]["angles"], np.eye(2, dtype=np.float32)[raw["arm"]["grip"]]]
            np.testing.assert_array_equal(seen["vector"][row], np.concatenate(vector))
        assert encoding.text.startswith("3 parts (eyes/0: image 8x8x3, channels last, pixels (255 counts as 1); ")
        assert "vector: one vector of 5 (arm/angles: " in encoding.text

    @pytest.mark.parametrize(
        ("keys", "parts"),
        [
            (("eyes", "arm/grip"), {"eyes/0": (8, 8, 3), "eyes/1": (8, 8, 1), "vector": (2,)}),
            (("eyes",), {"eyes/0": (8, 8, 3), "eyes/1": (8, 8, 1)}),
            (("eyes/0", "nothing"), {"eyes/0": (8, 8, 3)}),
        ],
        ids=str,
    )
    def test_keys_keep_some(self, keys, parts):
        encoding, _ = self.seen(self.SPACE, self.draw(self.SPACE), observation_keys=keys)
        assert {name: part.shape for name, part in encoding.struct.items()} == parts

    def test_an_image_that_is_kept_alone_comes_alone(self):
        _, seen = self.seen(self.SPACE, self.draw(self.SPACE), observation_keys=("eyes/1",))
        assert seen.shape == (3, 8, 8, 1)

    def test_a_key_joins_all(self):
        drawn = self.draw(self.SPACE)
        _, seen = self.seen(self.SPACE, drawn, parts="joined", uint8="numbers")
        flat = np.stack([gymnasium.spaces.flatten(self.SPACE, raw) for raw in drawn])
        np.testing.assert_array_equal(seen, flat.astype(np.float32))

    def test_keys_may_hold_slashes(self):
        space = spaces.Dict({"arm/grip": spaces.Box(-1, 1, (2,)), "eye/left": pixels(8, 8, 3)})
        drawn = self.draw(space)
        _, seen = self.seen(space, drawn)
        np.testing.assert_array_equal(seen["vector"], [raw["arm/grip"] for raw in drawn])
        np.testing.assert_array_equal(seen["eye/left"], [raw["eye/left"] for raw in drawn])

    def test_an_unknown_key_is_answered_with_paths(self):
        with pytest.raises(ConfigError, match=r"no entry 'arm/grasp'.*arm/grip"):
            make_encoding(self.SPACE, config_of(observation_keys=("arm/grasp",)))

    def test_an_image_of_the_vectors_name_is_refused(self):
        with pytest.raises(ConfigError, match="an image 'vector' beside other entries"):
            make_encoding(spaces.Dict(vector=pixels(8, 8, 3), clock=spaces.Discrete(2)), config_of())


class TestSameAsBefore:
    """The keys of `env` with which an agent of a podrl that had none of them sees what it saw."""

    @pytest.mark.parametrize(
        ("space", "keys"),
        [
            (pixels(84, 84, 3), {}),
            (pixels(3, 84, 84), {}),
            (pixels(7, 7, 20), {"channels": "first"}),
            (pixels(20, 7, 7), {"channels": "last"}),
            (pixels(48, 48), {"uint8": "numbers"}),
            (pixels(128), {"uint8": "numbers"}),
            (spaces.Box(0, 1, (5, 5, 2), np.uint8), {"uint8": "pixels"}),
            (spaces.Box(0, 1, (9,), np.uint8), {}),
            (spaces.Box(-1, 1, (3, 9, 9)), {}),
            (spaces.Dict(a=pixels(7, 7, 3), b=spaces.Discrete(3)), {"parts": "joined", "uint8": "numbers"}),
            (spaces.Dict(a=pixels(3, 7, 7), b=pixels(7)), {"parts": "joined", "uint8": "numbers"}),
            (spaces.Dict(a=pixels(7, 7, 20)), {"channels": "first"}),
            (spaces.Dict(a=spaces.Box(0, 1, (7,), np.uint8), b=spaces.Discrete(3)), {}),
        ],
        ids=str,
    )
    def test_keys(self, space, keys):
        space.seed(0)
        drawn = [space.sample() for _ in range(2)]
        encoding = make_encoding(space, config_of())
        assert encoding.env_before == keys
        _, encoded = encode(space, drawn, **encoding.env_before)
        np.testing.assert_array_equal(encoded, self.as_it_was(space, drawn))

    def as_it_was(self, space, drawn):
        if isinstance(space, spaces.Dict):
            if len(space.spaces) == 1:
                ((key, entry),) = space.items()
                return self.as_it_was(entry, [raw[key] for raw in drawn])
            parts = [gymnasium.spaces.flatten(space, raw) for raw in drawn]  # Floats, in the order of the keys.
            return np.stack(parts).astype(np.float32)
        batch = np.stack(drawn)
        if batch.dtype == np.uint8 and batch.ndim == 4:
            return np.moveaxis(batch, 1, -1) if space.shape[0] < space.shape[2] else batch
        return batch.reshape(len(batch), -1).astype(np.float32)


def test_a_run_of_before_there_were_these_keys_goes_on_and_is_evaluated_with_what_it_saw(tmp_path):
    settings = {"env__source": "gymnasium", "total_env_steps": 2 * 8 * 4, "log__tensorboard": False}
    settings |= {f"topology__{who}_devices_per_process": 1 for who in ("actor", "learner")}
    now = short_runs.make_config("tests.envs.test_observations:Gray", **settings)
    same = short_runs.make_config("tests.envs.test_observations:Gray", **settings, env__uint8="numbers")
    train(same, workdir=str(tmp_path))
    unseal(tmp_path / "checkpoints/2")
    for path in (tmp_path / "config.json", tmp_path / "checkpoints/2/config/metadata"):
        edit(path, lambda stored: [stored["env"].pop(key) for key in ("uint8", "channels")])

    saved = open_run(str(tmp_path), None, jax.local_devices()[0])
    assert (saved.config.env.uint8, saved.spec.observation.dtype) == ("numbers", np.float32)
    with pytest.raises(ConfigError, match=r"a run of another config: env.uint8 was numbers, is auto\."):
        train(now, workdir=str(tmp_path))
    assert train(same, workdir=str(tmp_path)).finished


# Each space, the size of the vector that a network sees, and the numbers of its actions' choices, or an error.
ARRAY, ACTIONS = "podrl takes arrays", "podrl gives a number out of n"
FLATTEN = r"with env.wrappers=\('gymnasium.wrappers:FlattenObservation',\)"
TOO_MANY = r"one-hot vector of [\d,]+ numbers; podrl takes up to 1,048,576"
EMPTY = "there is nothing to see"
ODD = [
    (spaces.Box(0, 255, (), np.uint8), 1, 256),
    (spaces.Box(0, 255, (1,), np.uint8), 1, 256),
    (spaces.Box(-2, 5, (), np.int64), 1, 8),
    (spaces.Box(-1, 1, ()), 1, 1),
    (spaces.Box(0, 1, (2, 3), bool), 6, 12),
    (spaces.Box(-1, 1, (2, 1, 3), np.float16), 6, 6),
    (spaces.Box(0, 1, (0,)), EMPTY, ACTIONS),
    (spaces.Box(0, 255, (3, 0, 3), np.uint8), EMPTY, ACTIONS),
    (spaces.Box(0, 2**64 - 1, (1,), np.uint64), 1, ACTIONS),
    (spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1,), np.int64), 1, ACTIONS),
    (spaces.Discrete(1), 1, 1),
    (spaces.Discrete(5, start=-3), 5, 5),
    (spaces.Discrete(3, start=2**62), 3, 3),
    (spaces.Discrete(10**12), TOO_MANY, "take 1,000,000,000,000 logits"),
    (spaces.MultiDiscrete([2, 3, 1]), 6, 6),
    (spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, -1], [0, 7]]), 14, 14),
    (spaces.MultiDiscrete([]), EMPTY, ACTIONS),
    (spaces.Dict(a=spaces.MultiDiscrete([]), b=spaces.Discrete(2)), 2, ACTIONS),
    (spaces.MultiDiscrete([10**9, 2]), TOO_MANY, "take 1,000,000,002 logits"),
    (spaces.MultiBinary(4), 4, 8),
    (spaces.MultiBinary((2, 3)), 6, 12),
    (spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (2,)))), 4, 2),
    (spaces.Tuple((spaces.Text(3), spaces.Box(0, 1, (2,)))), f"Text as '0'.*{FLATTEN}", ACTIONS),
    (spaces.Dict(), "holds any number", ACTIONS),
    (spaces.Dict(a=spaces.Box(0, 1, (0,)), b=spaces.Box(0, 1, (2,))), 2, ACTIONS),
    (spaces.Dict(a=spaces.Box(0, 1, (0,)), b=spaces.Box(0, 1, (0, 2))), "holds any number", ACTIONS),
    (spaces.Dict(a=spaces.Discrete(2), b=spaces.MultiDiscrete([2, 3], start=[4, 0])), 7, 7),
    (spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2)), c=spaces.Discrete(2)), 4, 4),
    (spaces.Dict(a=spaces.Tuple((spaces.Discrete(2),)), c=spaces.Discrete(2)), 4, 4),
    (spaces.Dict(a=spaces.Tuple((spaces.Text(2),)), c=spaces.Discrete(2)), f"'a/0'.*{FLATTEN}", ACTIONS),
    (spaces.Text(3), FLATTEN, ACTIONS),
    (spaces.Sequence(spaces.Discrete(2)), "a gymnasium.ObservationWrapper of your own", ACTIONS),
    (spaces.Graph(spaces.Discrete(2), None), "a gymnasium.ObservationWrapper of your own", ACTIONS),
    (spaces.OneOf((spaces.Discrete(2), spaces.Discrete(3))), FLATTEN, ACTIONS),
]


class TestOddSpaces:
    """Each is refused in one line, or right: as observation by Gymnasium's `flatten`, as action by the space itself."""

    @pytest.mark.parametrize(("space", "expected"), [(space, seen) for space, seen, _ in ODD], ids=str)
    def test_as_observation(self, space, expected):
        if isinstance(expected, str):
            with pytest.raises(ConfigError, match=expected) as caught:
                make_encoding(space, config_of())
            assert "\n" not in str(caught.value)
            return
        space.seed(3)
        drawn = [space.sample() for _ in range(5)]
        encoding, encoded = encode(space, drawn, uint8="numbers")
        assert encoding.struct.size == expected
        flat = np.stack([gymnasium.spaces.flatten(space, raw) for raw in drawn])
        np.testing.assert_array_equal(encoded, flat.astype(np.float32))

    @pytest.mark.parametrize(("space", "expected"), [(space, num) for space, _, num in ODD], ids=str)
    def test_as_action(self, space, expected):
        if isinstance(expected, str):
            with pytest.raises(ConfigError, match=expected) as caught:
                make_action_encoding(space, "Test-v0")
            assert "\n" not in str(caught.value)
            return
        encoding = make_action_encoding(space, "Test-v0")
        actions = encoding.actions
        assert expected == (num_logits(actions) or actions.size)
        given = actions.sample(np.random.default_rng(0), (50,))
        decoded = encoding.decode(given)
        if isinstance(space, spaces.Dict | spaces.Tuple):
            assert all(map(space.contains, decoded))
            decoded = np.stack([gymnasium.spaces.flatten(space, row) for row in decoded])
        else:
            assert decoded.shape == (50, *(space.shape or ()))
            assert all(space.contains(np.asarray(row, space.dtype)) for row in decoded)
        assert len(np.unique(decoded, axis=0)) == len(np.unique(given, axis=0))

    def test_a_scalar_of_integers_is_one_choice_among_all(self):
        encoding = make_action_encoding(spaces.Box(0, 255, (), np.uint8), "Test-v0")

        assert encoding.actions == DiscreteActions(256)
        np.testing.assert_array_equal(encoding.decode(np.arange(256, dtype=np.int32)), np.arange(256))

    def test_the_wrapper_that_an_error_names_cures_it(self):
        for space in [space for space, seen, _ in ODD if isinstance(seen, str) and FLATTEN in seen]:
            flat = gymnasium.spaces.flatten_space(space)
            assert make_encoding(flat, config_of()).struct.size == flat.shape[0]

    def test_an_environment_with_an_empty_entry_plays(self):
        config = EnvConfig(source="gymnasium", id="tests.envs.test_observations:HalfEmpty")
        assert make_spec(config).observation == jax.ShapeDtypeStruct((3,), np.float32)
        pool = make_pool(config, seeds=[1, 2], num_threads=1)
        assert pool.reset().observation.shape == (2, 3)
        pool.close()


class Gray(Board):
    """Gray images without an axis for the channel."""

    observation_space = pixels(4, 6)


class HalfEmpty(Board):
    """An environment whose dictionary has an entry without numbers."""

    observation_space = spaces.Dict(nothing=spaces.Box(0, 1, (0,)), choices=spaces.MultiDiscrete([2, 1], start=[1, 5]))


def test_the_largest_one_hot_vector_that_podrl_takes():
    assert make_encoding(spaces.Discrete(MAX_ONE_HOT), config_of()).struct.size == MAX_ONE_HOT
