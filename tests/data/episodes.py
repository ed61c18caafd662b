"""Episodes whose every number is known, and data sets of them."""

import jax
import numpy as np

from podrl.actions import ContinuousActions, DiscreteActions
from podrl.data.manifest import DataSpec
from podrl.data.recorded import RecordedEpisode
from podrl.data.writer import DataWriter
from podrl.types import EnvSpec

IMAGES = EnvSpec(
    id="images",
    observation={
        "arm/angle%": jax.ShapeDtypeStruct((3,), np.float32),
        "camera": jax.ShapeDtypeStruct((6, 5, 1), np.uint8),
    },
    actions=DiscreteActions(4),
)
VECTOR = EnvSpec(id="vector", observation=jax.ShapeDtypeStruct((2,), np.float32), actions=ContinuousActions(2))
LOGITS = {"logits": jax.ShapeDtypeStruct((4,), np.float32)}


def make_episode(number, length, spec=VECTOR, *, behaviour=(), truncated=False, seed=7, reward=None, **fields):
    """Episode `number` of `length` steps: vectors observe (number, step), and step t earns t + 1 or `reward`."""
    rng = np.random.default_rng(number)

    def rows(count, struct):
        if struct.dtype == np.uint8:
            return rng.integers(0, 256, (count, *struct.shape), np.uint8)
        return rng.normal(size=(count, *struct.shape)).astype(struct.dtype)

    observation = jax.tree.map(lambda struct: rows(length + 1, struct), spec.observation)
    if spec is VECTOR:
        observation = np.stack([np.full(length + 1, number), np.arange(length + 1)], axis=1).astype(np.float32)
    discount = np.ones(length, np.float32)
    if length:
        discount[-1] = float(truncated)
    return RecordedEpisode(
        observation=observation,
        action=spec.actions.sample(rng, (length,)),
        reward=np.arange(1, length + 1, dtype=np.float32) if reward is None else np.full(length, reward, np.float32),
        discount=discount,
        behaviour=jax.tree.map(lambda struct: rows(length, struct), behaviour),
        params_version=np.full(length, number, np.int32),
        seed=seed,
        number=number,
        **fields,
    )


def write_episodes(folder, episodes, spec=VECTOR, *, behaviour=(), facts=None, **settings):
    """Writes one recording, which is complete."""
    with DataWriter(folder, DataSpec(env=spec, behaviour=behaviour), **settings) as writer:
        assert writer.begin(facts or {"policy": "test"}) == 0
        for episode in episodes:
            writer.add(episode)
        writer.end()
    return folder


def content_of(folder):
    """The bytes of every file of a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
