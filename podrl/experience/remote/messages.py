"""The messages of learner and environment workers: a head of 12 bytes, and JSON or arrays.

A worker connects and opens one stream of messages in each direction:

    learner: NONCE    {nonce}
    worker:  PROOF    {nonce, proof}             the job's secret itself is never sent
    learner: WELCOME  {proof, protocol, podrl, role, config, software, and what its role needs},
             or REFUSED {}: no secret
    worker:  READY    {protocol, podrl, role, config, software, host, pid}
    learner: ADMITTED {index, returns}, or REFUSED {why, for_now, has_ended}

Actor workers continue as `podrl.experience.remote.actor_workers` says. Of an environment worker the learner asks and it
answers, on channels that are numbered anew for each pool:

    OPEN {seeds, env_numbers, num_threads, num_pools, info_keys, tells_ends}  -> STEP timestep
    ACT action                                          -> STEP timestep
    CLOSE {}                                            -> CLOSED {}

Anything may be answered by FAILED {text, is_mistake}. At the end the learner sends END {code}.

Flow control is by credits: a request is one credit for one answer with the request's number. A message without
a credit ends the connection. So neither side ever holds more than one message of a pool.

The first two messages are the same in every version of the protocol, so that two versions can name themselves.
"""

from collections.abc import Mapping
import enum
import hashlib
import json
import struct
from typing import Any, NamedTuple

from podrl.runtime.job.wire import parse_message

PROTOCOL = 4
SERVICE, METHOD = "podrl.EnvironmentWorkers", "Serve"
LONGEST_JSON_BYTES = 1 << 20  # Of what one side says after both proofs.
_HEAD = struct.Struct("<BxxxII")
HEAD_BYTES = _HEAD.size


class Kind(enum.IntEnum):
    """What a message is."""

    NONCE = 1
    PROOF = 2
    WELCOME = 3
    READY = 4
    ADMITTED = 5
    REFUSED = 6
    OPEN = 7
    ACT = 8
    STEP = 9
    CLOSE = 10
    CLOSED = 11
    FAILED = 12
    END = 13
    # Of actor workers.
    START = 33
    STARTED = 34
    GO = 35
    PARAMS = 36
    PART_OF_PARAMS = 37
    ROLLOUT = 38
    PART_OF_ROLLOUT = 39
    DRIFT = 40
    PULL = 41


class Head(NamedTuple):
    """The head of a message: its kind, the pool's channel, and the number of the request on it."""

    kind: Kind
    channel: int = 0
    number: int = 0

    def pack(self) -> bytes:
        """Returns its bytes."""
        return _HEAD.pack(self.kind, self.channel, self.number)


def read_head(message: bytes) -> Head:
    """Returns a message's head.

    Raises:
        ValueError: if it has none.
    """
    if len(message) < HEAD_BYTES:
        raise ValueError(f"{len(message)} bytes are no message")
    kind, channel, number = _HEAD.unpack_from(message)
    return Head(Kind(kind), channel, number)


def pack_fields(head: Head, **fields: Any) -> bytes:
    """Returns a message of JSON."""
    return head.pack() + json.dumps(fields).encode()


def read_fields(message: bytes, *, longest_bytes: int = LONGEST_JSON_BYTES) -> dict[str, Any]:
    """Returns the fields of a message of JSON.

    Raises:
        ValueError: if it is too long, or no JSON object.
    """
    if len(message) > longest_bytes:
        raise ValueError(f"a message of more than {longest_bytes} bytes")
    return parse_message(message[HEAD_BYTES:])


def env_to_fields(env: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section `env` of a config as JSON restores it: tuples among the options stay tuples."""
    return {**env, "options": {name: _marked(value) for name, value in env["options"].items()}}


def fields_to_env(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `env_to_fields` was given; lists outside of the options are tuples."""
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return plain | {"options": {name: _unmarked(value) for name, value in dict(fields["options"]).items()}}


def config_hash(fields: Mapping[str, Any]) -> str:
    """Returns a hash of a config's fields, which both sides take of what they understood."""
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _marked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {"{": {name: _marked(entry) for name, entry in value.items()}}
    if isinstance(value, tuple):
        return {"(": [_marked(entry) for entry in value]}
    return [_marked(entry) for entry in value] if isinstance(value, list) else value


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    ((mark, content),) = value.items()
    if mark == "(":
        return tuple(_unmarked(entry) for entry in content)
    return {name: _unmarked(entry) for name, entry in content.items()}
