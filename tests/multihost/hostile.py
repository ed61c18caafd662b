"""Strangers that connect to a job of this machine and say what they like; from a seed, and no more than told."""

import contextlib
import json
import random
import socket
import struct
import time

from podrl.runtime.job import wire
from podrl.runtime.job.addresses import is_loopback, split_address

WAIT_S = 2.0  # For an answer that a hostile message is made of.
MOST_HELD = 200  # Connections that are kept open and say nothing more.
VALUES = ("Infinity", "-Infinity", "NaN", "1e999", "-1", "7", "1.5", "true", "null", '"1"', "[1]", "{}", "9" * 5000)


def introduction(**changes):
    return json.dumps({"index": 1, "count": 2, "host": "node2", "job": ""} | changes).encode() + b"\n"


def say(draw):
    """Something that needs no answer."""
    number, many = draw.choice(VALUES).encode(), draw.randrange(100_000)
    return draw.choice(
        [
            b"",
            b"\n",
            b'{"index": ' + number + b"}\n",
            b'{"index": 1, "count": ' + number + b', "host": "x", "job": ""}\n',
            introduction(index=draw.randrange(2)),
            introduction(index=draw.choice([-1, 2, 7, 2**63])),
            b"[" * many + b"\n",
            b'{"a":' * many + b"\n",
            b'{"a":' + b"[" * draw.randrange(990, 1019) + b"\n",
            b"x" * many,
            b"{" + b" " * many,
            draw.randbytes(draw.randrange(2000)),
            '{"index": 1}'.encode("utf-16"),
            b'{"host": "\xff\xfe"}\n',
            draw.choice([b"[]", b"1", b'"nonce"', b"null", b"{}"]) + b"\n",
            b'{"bye": true}\n{"fail": "gone", "exit_code": 3}\n{"stuck": [0, 1]}\n{"give_up": 0}\n',
            b'{"nonce": ' + number + b', "proof": ' + number + b"}\n",
            wire.encode_message(
                nonce=draw.choice(["", "0" * 64, "z" * 64, "\u00e9" * 64]), proof=draw.choice(["", "0" * 64, 7])
            ),
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(300),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + draw.randbytes(draw.randrange(300)),
        ]
    )


def answer(connection, draw, overheard):
    """Something made of the coordinator's own nonce, or of what others said before."""
    lines = wire.Lines(wire.LONGEST_UNPROVEN_BYTES)
    connection.settimeout(WAIT_S)
    lines.add(connection.recv(1000))
    nonce = (lines.pop() or {}).get("nonce", "0" * 64)
    secret = draw.choice([b"", b"secret", nonce.encode()])
    own = draw.choice([nonce, wire.make_nonce(), *overheard[-1:]])
    overheard.append(nonce)
    proof = draw.choice([wire.prove(secret, role, nonce, own) for role in (wire.PROCESS, wire.COORDINATOR)])
    return wire.encode_message(nonce=own, proof=proof) + introduction()


def attack(address, count, *, seed, until=lambda: False):
    """Sends so many hostile messages, each by a connection of its own; stays within this machine.

    Args:
        address: of the job.
        count: of the messages.
        seed: of what they are.
        until: asked after each; ends the attack.

    Returns:
        How many connections were made; the others were refused by the operating system.
    """
    assert is_loopback(address)
    draw, held, overheard, made = random.Random(seed), [], [], 0
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            if until():
                break
            try:
                connection = socket.create_connection(split_address(address), timeout=WAIT_S)
            except OSError:
                time.sleep(0.01)
                continue
            made += 1
            with contextlib.suppress(OSError, ValueError):
                answers = draw.random() < 0.2
                connection.sendall(answer(connection, draw, overheard) if answers else say(draw))
            if draw.random() < 0.1:
                held.append(stack.enter_context(connection))
            elif draw.random() < 0.5:
                connection.close()
            else:  # Without a goodbye.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            if len(held) > MOST_HELD:
                held.pop(0).close()
    return made
