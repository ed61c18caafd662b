"""How a learner's process and an environment worker know each other before anything else is said.

Both prove the job's secret by an HMAC over fresh nonces of both sides, in roles that differ, as processes of a job do
(`podrl.runtime.job.wire`). Only then does the worker learn what it is to do. A stranger gets a random number and
nothing else, has a few seconds, and is named in the log, once for each host and reason.

The two sides are generators: they yield what to send and are sent what arrives, so that they know nothing of sockets.
"""

from collections.abc import Generator, Mapping
import dataclasses
import importlib.metadata
import os
import platform
from typing import Any, NamedTuple

from podrl.config.config import ConfigError
from podrl.experience.remote.messages import (
    LONGEST_JSON_BYTES,
    PROTOCOL,
    Head,
    Kind,
    config_hash,
    pack_fields,
    read_fields,
    read_head,
)
from podrl.experience.remote.roles import ENVIRONMENTS, Role
from podrl.runtime.job import wire
from podrl.runtime.job.handshake import UnprovenError

_ROLE = "podrl learner of workers"
_VERSION = importlib.metadata.version("podrl")

_Dialogue = Generator[bytes, bytes, Any]


class RefusedError(Exception):
    """The other side is not of this job, or does not fit it; the text says why."""


class FullError(RefusedError):
    """The learner has no place for a worker now, and may have one later."""


class EndedError(RefusedError):
    """The learner's run ends."""


class Admitted(NamedTuple):
    """What a worker is told that was admitted.

    Attributes:
        config: the part of the run's config that its role needs: the `EnvConfig` of the environments that it will
            step, or the whole `Config`.
        returns: whether it may come again after its connection was lost.
    """

    config: Any
    returns: bool


@dataclasses.dataclass(frozen=True)
class Introduction:
    """What a worker says of itself.

    Attributes:
        host: its host's name.
        pid: its process's number there.
    """

    host: str
    pid: int


def admit(secret: bytes, config: Mapping[str, Any], role: Role = ENVIRONMENTS) -> _Dialogue:
    """The learner's side: lets a worker prove itself, tells it the config, and checks that it fits.

    Args:
        secret: the job's secret.
        config: the part of the run's config that its role needs.
        role: The role of the workers that it waits for.

    Returns:
        The worker's `Introduction`. The caller sends `ADMITTED` or `REFUSED`.

    Raises:
        UnprovenError: if it does not know the secret; the caller sends `turn_away("")`.
        RefusedError: if it does not fit the run; the caller sends `turn_away`.
        ValueError: if what it says is not podrl's.
    """
    own = wire.make_nonce()
    proof = _expect(Kind.PROOF, (yield pack_fields(Head(Kind.NONCE), nonce=own)), wire.LONGEST_UNPROVEN_BYTES)
    if not wire.is_nonce(proof.get("nonce")):
        raise ValueError("no nonce")
    nonces = (own, str(proof["nonce"]))
    if not wire.is_proof(proof.get("proof"), secret, wire.process_to(_ROLE), *nonces):
        raise UnprovenError
    fields = role.pack(config)
    welcome = pack_fields(
        Head(Kind.WELCOME),
        proof=wire.prove(secret, _ROLE, *nonces),
        protocol=PROTOCOL,
        podrl=_VERSION,
        role=role.noun,
        config=config_hash(fields),
        software=role.software(),
        fields=fields,
    )
    ready = _expect(Kind.READY, (yield welcome))
    if why := _misfit(ready, role, config_hash(fields)):
        raise RefusedError(f"it {why}")
    host = str(ready.get("host"))[:100]
    if not host.isprintable():
        raise ValueError("no host")
    return Introduction(host, wire.whole(ready.get("pid"), 2**32))


def turn_away(why: str, *, for_now: bool = False, has_ended: bool = False) -> bytes:
    """Returns the last message to one that is not admitted; to one that has proven nothing it gives no reason.

    Args:
        why: the reason.
        for_now: whether it may be admitted later.
        has_ended: whether it comes as the run ends.
    """
    return pack_fields(Head(Kind.REFUSED), why=why, for_now=for_now, has_ended=has_ended)


def apply(secret: bytes, role: Role = ENVIRONMENTS) -> _Dialogue:
    """The worker's side: proves itself, checks the learner's proof, and takes the config.

    Returns:
        What the worker is `Admitted` to.

    Raises:
        UnprovenError: if one side does not know the other's secret.
        FullError: if the learner has no place for it now.
        EndedError: if the learner's run ends.
        RefusedError: if it is not admitted, or does not fit the learner.
        ValueError: if what the learner says is not podrl's.
    """
    own = wire.make_nonce()
    theirs = _expect(Kind.NONCE, (yield b""), wire.LONGEST_UNPROVEN_BYTES).get("nonce")
    if not wire.is_nonce(theirs):
        raise ValueError("no nonce")
    nonces = (str(theirs), own)
    proof = wire.prove(secret, wire.process_to(_ROLE), *nonces)
    answer = yield pack_fields(Head(Kind.PROOF), nonce=own, proof=proof)
    welcome = _expect(Kind.WELCOME, answer)
    if not wire.is_proof(welcome.get("proof"), secret, _ROLE, *nonces):
        raise UnprovenError
    try:
        other = role.noun != welcome.get("role")
        config = None if other else role.read(welcome["fields"])
        found = "" if config is None else config_hash(role.pack(dataclasses.asdict(config)))
    except (ConfigError, ImportError, TypeError, KeyError, AttributeError) as error:
        raise RefusedError(f"this podrl does not read the learner's config: {error}") from None
    own_facts = {"protocol": PROTOCOL, "podrl": _VERSION, "role": role.noun, "config": found}
    ready = {**own_facts, "software": role.software(), "host": platform.node(), "pid": os.getpid()}
    if why := _misfit(welcome, role, found):
        yield pack_fields(Head(Kind.READY), **ready)  # The learner names this worker in its log, too.
        raise RefusedError(f"the learner {why}")
    admitted = _expect(Kind.ADMITTED, (yield pack_fields(Head(Kind.READY), **ready)))
    return Admitted(config, returns=admitted.get("returns") is True)


def _expect(kind: Kind, message: bytes, longest_bytes: int = LONGEST_JSON_BYTES) -> dict[str, Any]:
    """Returns the fields of a message of this kind."""
    found = read_head(message).kind
    if found == Kind.REFUSED:
        fields = read_fields(message, longest_bytes=longest_bytes)
        if not (why := fields.get("why", "")):
            raise UnprovenError
        kinds = {"for_now": FullError, "has_ended": EndedError}
        refused = next((kind for key, kind in kinds.items() if fields.get(key) is True), RefusedError)
        raise refused(f"the learner refused it: {str(why)[:1000]}")
    if found != kind:
        raise ValueError(f"{found.name} instead of {kind.name}")
    return read_fields(message, longest_bytes=longest_bytes)


def _misfit(theirs: Mapping[str, Any], role: Role, own_config: str) -> str:
    """Returns in what the other side does not fit this one; empty if it does."""
    for name, value, own in (
        ("protocol", theirs.get("protocol"), PROTOCOL),
        ("podrl", theirs.get("podrl"), _VERSION),
    ):
        if value != own:
            return f"has {name} {str(value)[:40]}, and this side {name} {own}; install the same podrl on both"
    if theirs.get("role") != role.noun:
        return f"is for {str(theirs.get('role'))[:40]}s, and this side for {role.noun}s; start the other program"
    if theirs.get("config") != own_config:
        return "reads the config in another way; install the same podrl on both"
    software = theirs.get("software")
    for name, own in role.software().items():
        value = software.get(name) if isinstance(software, dict) else None
        if value != own:
            how = "set it to the same" if name.isupper() else "install the same JAX"
            return f"has {name} {str(value)[:200]}, and this side {own}; {how} on both"
    return ""
