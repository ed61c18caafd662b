"""The JSON parts of a checkpoint, beside its arrays: counters, the newest episodes, the run's config and manifest.

They can be read without a device, without Orbax, and without knowing the network. They protect each other and the
arrays: `hashes` has a digest of every other part and a hash of every array, and the counters have a digest of
`hashes`, their seal. So a part that was changed, exchanged or removed is noticed. A checkpoint that was made before
podrl sealed them has neither.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import math
import re
from typing import Any

from etils import epath

from podrl.experience.episodes import recorded_return
from podrl.runs.checkpoint_errors import DamagedError, reading
from podrl.types import Counters, Snapshot

JSON_ITEMS = ("counters", "episodes", "chain", "clock", "config", "manifest", "hashes")
JSON_FILE = "metadata"  # Orbax's own default.
_NO_CHAIN = 16 * "0"  # For checkpoints that were made before podrl chained its fingerprints.


@dataclasses.dataclass(frozen=True)
class ArrayRecord:
    """One array of the state as it was saved.

    Attributes:
        shape: dtype and shape, such as `float32[50, 16]`.
        hash: 16 hexadecimal digits, see `podrl.ops.fingerprint.hash_arrays`.
    """

    shape: str
    hash: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """All of a checkpoint except the arrays.

    Attributes:
        counters: progress of the job.
        episodes: the newest episodes, as in `Snapshot`.
        chain: chain of the fingerprints.
        wall_s: the run's clock; None if the checkpoint was made before podrl saved it.
        config: the run's resolved config; None if it was not saved.
        manifest: the run's manifest; None if it was not saved.
        arrays: records by path; None if the checkpoint was made before podrl saved hashes.
        replay: records of the arrays of the replay; None if the checkpoint was made without.
    """

    counters: Counters
    episodes: Mapping[str, Any]
    chain: str
    wall_s: float | None
    config: Mapping[str, Any] | None
    manifest: Mapping[str, Any] | None
    arrays: Mapping[str, ArrayRecord] | None
    replay: Mapping[str, ArrayRecord] | None = None


def checkpoint_folder(workdir: epath.PathLike) -> epath.Path:
    """Returns the folder of a run's checkpoints."""
    return epath.Path(workdir).resolve() / "checkpoints"  # Orbax refuses relative paths.


def name_of(workdir: epath.PathLike, step: int) -> str:
    """Returns a checkpoint's name for people: `Checkpoint 8 in /runs/a/checkpoints`."""
    return f"Checkpoint {step} in {checkpoint_folder(workdir)}"


def make_checkpoint_facts(
    snapshot: Snapshot,
    config: Mapping[str, Any] | None,
    manifest: Mapping[str, Any] | None,
    arrays: Mapping[str, ArrayRecord],
    replay: Mapping[str, ArrayRecord] | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Returns the parts of `JSON_ITEMS` by name, without those of `config`, `manifest` and the clock that are None."""
    made = {
        "counters": dataclasses.asdict(snapshot.counters),
        "episodes": dict(snapshot.episodes),
        "chain": {"chain": snapshot.chain},
        "clock": None if snapshot.wall_s is None else {"wall_s": snapshot.wall_s},
        "config": config,
        "manifest": manifest,
    }
    facts: dict[str, Mapping[str, Any]] = {name: fact for name, fact in made.items() if fact is not None}
    hashes = {
        "arrays": _listed(arrays),
        "facts": {name: _digest(fact) for name, fact in facts.items()},
        **({} if replay is None else {"replay": _listed(replay)}),
    }
    return facts | {"hashes": hashes, "counters": {**facts["counters"], "seal": _digest(hashes)}}


def read_fact(workdir: epath.PathLike, step: int, name: str) -> dict[str, Any] | None:
    """Returns one part of a checkpoint's `JSON_ITEMS`, not checked against the others; None if it does not exist.

    Raises:
        DamagedError: if it is no JSON object.
        UnreadableError: if the system does not let it be read.
    """
    path = checkpoint_folder(workdir) / str(step) / name / JSON_FILE
    with reading(str(path)):
        try:
            fact = json.loads(path.read_text())
        except FileNotFoundError:
            return None
    if not isinstance(fact, dict):
        raise DamagedError(f"{path} is damaged: it holds {type(fact).__name__}, expected a JSON object.")
    return fact


def read_facts(workdir: epath.PathLike, step: int) -> Facts:
    """Reads all parts, checked against each other and against the checkpoint's number.

    Raises:
        DamagedError: if a part is missing, or is not what was saved; the message says which.
        UnreadableError: if the system does not let a part be read.
    """
    found = {name: fact for name in JSON_ITEMS if (fact := read_fact(workdir, step, name)) is not None}
    with reading(name_of(workdir, step)):
        seal = found.get("counters", {}).pop("seal", None)
        hashes = found.pop("hashes", None)
        _check_seal(seal, hashes, found)
        return Facts(
            counters=_read_counters(found, step),
            episodes=_read_episodes(found),
            chain=_read_chain(found),
            wall_s=_read_clock(found),
            config=found.get("config"),
            manifest=found.get("manifest"),
            arrays=_records(hashes, "arrays"),
            replay=_records(hashes, "replay"),
        )


def read_return(workdir: epath.PathLike, step: int) -> float | None:
    """Returns the mean episode return at a checkpoint; None if no episode had ended, or that part is damaged.

    Raises:
        UnreadableError: if the system does not let it be read.
    """
    try:
        with reading(name_of(workdir, step)):
            return recorded_return(_read_episodes({"episodes": read_fact(workdir, step, "episodes") or {}}))
    except DamagedError:
        return None


def _listed(records: Mapping[str, ArrayRecord]) -> dict[str, list[str]]:
    return {path: [record.shape, record.hash] for path, record in records.items()}


def _records(hashes: Mapping[str, Any] | None, name: str) -> dict[str, ArrayRecord] | None:
    found = (hashes or {}).get(name)
    return None if found is None else {path: ArrayRecord(*each) for path, each in found.items()}


def _digest(fact: Mapping[str, Any]) -> str:
    """Returns the digest of what JSON keeps of a part, in any order of its keys."""
    text = json.dumps(json.loads(json.dumps(fact)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _check_seal(seal: Any, hashes: dict[str, Any] | None, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that all parts are as they were saved; checks nothing if the checkpoint was made before there were seals.

    Raises:
        ValueError: if a part is not.
    """
    if seal is None and hashes is None:
        return
    if hashes is None or seal is None:
        missing = "hashes" if hashes is None else "counters' seal"
        raise ValueError(f"its {missing} are not there" if hashes is None else f"its {missing} is not there")
    if _digest(hashes) != seal:
        raise ValueError("its hashes are not those that were saved, or its counters are not")
    for name in {**hashes["facts"], **facts}:
        if name not in facts:
            raise ValueError(f"its {name} is not there")
        if hashes["facts"].get(name) != _digest(facts[name]):
            raise ValueError(f"its {name} is not what was saved")


def _read_counters(facts: Mapping[str, Mapping[str, Any]], step: int) -> Counters:
    counters = facts.get("counters")
    if counters is None:
        raise ValueError("its counters are not there")
    names = {field.name for field in dataclasses.fields(Counters)}
    if counters.keys() != names or not all(type(value) is int and value >= 0 for value in counters.values()):
        raise ValueError(f"its counters are {dict(counters)}, expected whole numbers of {', '.join(sorted(names))}")
    if counters["learner_steps"] != step:
        raise ValueError(f"its counters are of update {counters['learner_steps']}")
    if counters["frames"] < counters["env_steps"]:
        raise ValueError(f"its counters have {counters['frames']} frames of {counters['env_steps']} env steps")
    return Counters(**counters)


def _read_episodes(facts: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    episodes = facts.get("episodes")
    if episodes is None:
        raise ValueError("its episodes are not there")
    newest, count = episodes.get("newest", []), episodes.get("count", 0)
    fits = isinstance(newest, list) and type(count) is int and count >= 0
    if not fits or not all(
        isinstance(each, list) and len(each) == 2 and type(each[0]) in (int, float) and type(each[1]) is int
        for each in newest
    ):
        raise ValueError("its episodes are no list of returns and lengths with a count")
    numbers = episodes.get("numbers", [{}] * len(newest))
    if not (
        isinstance(numbers, list)
        and len(numbers) == len(newest)
        and all(isinstance(each, dict) and {*map(type, each.values())} <= {int, float} for each in numbers)
    ):
        raise ValueError("the numbers of its episodes are no list of numbers by name, one for each episode")
    return episodes


def _read_chain(facts: Mapping[str, Mapping[str, Any]]) -> str:
    chain = facts.get("chain", {"chain": _NO_CHAIN}).get("chain")
    if not isinstance(chain, str) or not re.fullmatch("[0-9a-f]{16}", chain):
        raise ValueError(f"its chain of fingerprints is {chain!r}, expected 16 hexadecimal digits")
    return chain


def _read_clock(facts: Mapping[str, Mapping[str, Any]]) -> float | None:
    if "clock" not in facts:
        return None
    wall_s = facts["clock"].get("wall_s")
    if not isinstance(wall_s, int | float) or isinstance(wall_s, bool) or not 0 <= wall_s < math.inf:
        raise ValueError(f"its clock is {wall_s!r}, expected seconds")
    return float(wall_s)
