"""Imports recorded episodes from HDF5 files in the layouts of Minari and of D4RL.

Minari has a group for each episode, with one observation more than there are steps, and the spaces in `metadata.json`
beside the file. It marks an episode as truncated too where its recording just ended: the last episode, if it is shorter
than the environment's time limit, is taken for a part of one.

D4RL has all steps one behind the other. An episode ends at `terminals` or `timeouts`. Files without `timeouts` have
`next_observations`, and were cut where the next row is another observation. What comes behind the last end is a part of
an episode. A step that was cut off needs `next_observations`, or is left out: the observation that it led to is lost.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np

from podrl.config.config import ConfigError, EnvConfig, check
from podrl.config.extras import install_command
from podrl.data.hdf5_arrays import check_rows_of, describe_place, hdf5_errors, read_array, read_nested
from podrl.data.manifest import DataSpec
from podrl.data.raw_actions import encode_actions
from podrl.data.recorded import RecordedEpisode, check_finite_episode
from podrl.data.spaces_json import read_space
from podrl.data.writer import DataWriter
from podrl.envs.observations import make_encoding
from podrl.envs.spaces import make_action_encoding
from podrl.types import EnvSpec, PyTree

METADATA = "metadata.json"
_D4RL_ROWS = ("observations", "actions", "next_observations")
_D4RL_NUMBERS = ("rewards", "terminals", "timeouts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """How a file is understood.

    Attributes:
        env: The environment's spec.
        facts: What the file says of itself.
        encode: (raw observations of N rows) -> podrl's.
        actions: (raw actions of N rows) -> podrl's.
        episodes: Reads the episodes, their observations and actions raw.
    """

    env: EnvSpec
    facts: Mapping[str, Any]
    encode: Callable[[Any], PyTree]
    actions: Callable[[Any], np.ndarray]
    episodes: Callable[[], Iterator[RecordedEpisode]]


def import_hdf5(file: Path, folder: Path, *, env_id: str = "") -> int:
    """Appends the episodes of a file to a data set, and returns how many there are.

    Args:
        file: The file.
        folder: The data set's folder.
        env_id: The environment's id; by default what the file says, or its name.

    Raises:
        ConfigError: If h5py is missing, or the file has another layout, or cannot be read.
        DataError: If the data set is damaged.
    """
    with _opened(file) as content:
        layout = _understand(file, content, env_id)
        facts = {"policy": "imported", "file": file.name, "hash": _hash_file(file), **layout.facts}
        for episode in layout.episodes():  # A broken file must not leave a recording that nothing can complete.
            check_finite_episode(episode, f"--import={file}")
        spec = DataSpec(env=layout.env, has_version=False)
        with DataWriter(folder, spec) as writer:
            if writer.begin(facts) is not None:
                for episode in layout.episodes():
                    writer.add(_encoded(episode, layout))
                writer.end()
            return sum(shard.episodes for shard in writer.manifest.shards)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise ConfigError(f"--import needs h5py: pip install h5py, or {install_command('data')}.") from None
    try:
        content = h5py.File(file, "r")
    except OSError as error:
        raise ConfigError(f"--import={file} cannot be read as HDF5 ({str(error).partition(chr(10))[0]}).") from None
    with content:
        yield content


def _hash_file(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _understand(file: Path, content: Any, env_id: str) -> _Layout:
    if "episode_0" in content:
        return _minari(file, content, env_id)
    check(
        all(name in content for name in ("observations", "actions", "rewards", "terminals")),
        f"--import={file} has neither Minari's layout (groups episode_0, episode_1, ...) nor D4RL's (observations, "
        f"actions, rewards, terminals). It has {', '.join(sorted(content)[:8]) or 'nothing'}.",
    )
    return _d4rl(file, content, env_id)


def _minari(file: Path, content: Any, env_id: str) -> _Layout:
    beside = file.with_name(METADATA)
    try:
        told = json.loads(beside.read_text())
        observed, acted = (read_space(json.loads(told[name])) for name in ("observation_space", "action_space"))
        spec = json.loads(told["env_spec"]) if told.get("env_spec") else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{beside}, which Minari keeps beside its file, cannot be read ({error}).") from None
    limit = spec.get("max_episode_steps")
    names = [name for name in content if name.startswith("episode_")]
    for name in names:
        check(name[8:].isdecimal(), f"--import={file}: the group {name} is not named episode_NUMBER, as Minari does.")
    names.sort(key=lambda name: int(name[8:]))

    def episodes() -> Iterator[RecordedEpisode]:
        for name in names:
            group = content[name]
            check(hasattr(group, "keys"), f"--import={file}: {name} is an array, expected a group.")
            terminated = read_array(group, "terminations").astype(bool)
            length = len(terminated)
            truncated = read_array(group, "truncations", length).astype(bool)
            observation, action = (read_nested(group, key) for key in ("observations", "actions"))
            check_rows_of(observed, observation, length + 1, describe_place(group, "observations"))
            check_rows_of(acted, action, length, describe_place(group, "actions"))
            was_left = name == names[-1] and limit is not None and length < limit and not terminated[-1:].any()
            yield RecordedEpisode(
                observation=observation,
                action=action,
                reward=read_array(group, "rewards", length).astype(np.float32),
                discount=(~terminated).astype(np.float32),
                seed=_seed(group),
                number=int(name[8:]),
                is_whole=bool(terminated[-1:].any() or truncated[-1:].any()) and not was_left,
            )

    facts = {key: told[key] for key in ("dataset_id", "algorithm_name", "minari_version") if told.get(key)}
    return _layout(observed, acted, env_id or spec.get("id") or told.get("dataset_id", file.stem), facts, episodes)


def _d4rl(file: Path, content: Any, env_id: str) -> _Layout:
    check(
        "timeouts" in content or "next_observations" in content,
        f"--import={file} has neither timeouts nor next_observations: where its episodes were cut cannot be known.",
    )
    columns = {name: read_nested(content, name) for name in _D4RL_ROWS if name in content}
    num = (np.shape(columns["observations"]) or (0,))[0]
    check(num > 0, f"{describe_place(content, 'observations')} has no rows.")
    columns |= {name: read_array(content, name, num) for name in _D4RL_NUMBERS if name in content}
    observation_space = spaces.Box(-np.inf, np.inf, np.shape(columns["observations"])[1:], np.float32)
    action_space = spaces.Box(-1.0, 1.0, np.shape(columns["actions"])[1:], np.float32)
    for name in columns.keys() & set(_D4RL_ROWS):
        space = action_space if name == "actions" else observation_space
        check_rows_of(space, columns[name], num, describe_place(content, name))
    return _layout(observation_space, action_space, env_id or file.stem, {}, lambda: cut_episodes(columns))


def cut_episodes(columns: Mapping[str, np.ndarray]) -> Iterator[RecordedEpisode]:
    """Cuts D4RL's columns [N, ...] into episodes; the module says how.

    Args:
        columns: `observations`, `actions`, `rewards`, `terminals`, and `timeouts` or `next_observations` or both.
    """
    observations = columns["observations"]
    after: Any = columns.get("next_observations")
    terminals = np.asarray(columns["terminals"], bool).reshape(-1)
    if "timeouts" in columns:
        cuts = np.asarray(columns["timeouts"], bool).reshape(-1)
    else:
        jumps = (after[:-1] != observations[1:]).reshape(len(observations) - 1, -1).any(axis=1)
        cuts = np.append(jumps, False)
    ends = np.flatnonzero(terminals | cuts) + 1
    is_whole = [True] * len(ends)
    if not len(ends) or ends[-1] < len(terminals):
        ends, is_whole = np.append(ends, len(terminals)), [*is_whole, False]
    begin: Any = 0
    for number, (end, whole) in enumerate(zip(ends, is_whole, strict=True)):
        steps = slice(begin, end)
        if after is not None:
            final = after[end - 1 : end]
        elif terminals[end - 1]:
            final = observations[end - 1 : end]  # Its value is never asked for.
        else:
            steps, final = slice(begin, end - 1), observations[end - 1 : end]
        yield RecordedEpisode(
            observation=np.concatenate([observations[steps], final]),
            action=columns["actions"][steps],
            reward=np.asarray(columns["rewards"][steps], np.float32).reshape(-1),
            discount=(~terminals[steps]).astype(np.float32),
            number=number,
            is_whole=whole,
        )
        begin = end


def _layout(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    env_id: str,
    facts: Mapping[str, Any],
    episodes: Callable[[], Iterator[RecordedEpisode]],
) -> _Layout:
    config = EnvConfig(source="gymnasium", id=env_id)
    space = make_action_encoding(action_space, env_id)
    encoding = make_encoding(observation_space, config, space.actions)
    return _Layout(
        env=EnvSpec(id=env_id, observation=encoding.struct, actions=space.actions),
        facts=facts,
        encode=encoding.encode,
        actions=lambda raw: encode_actions(action_space, space.actions, raw),
        episodes=episodes,
    )


def _encoded(episode: RecordedEpisode, layout: _Layout) -> RecordedEpisode:
    if not episode.length:
        return episode
    return dataclasses.replace(
        episode, observation=layout.encode(episode.observation), action=layout.actions(episode.action)
    )


def _seed(group: Any) -> int:
    with hdf5_errors(group, "seed"):
        told = group.attrs.get("seed", -1)
    return int(told) if isinstance(told, int | np.integer) and told is not None else -1
