"""gRPC's options of both sides: how long silence is endured, and what strangers may take up.

Two of gRPC's limits end a connection whose pings go unanswered, and the shorter one counts: `keepalive_timeout_ms` and
`http2.ping_timeout_ms`, a minute by default. A process that ends or crashes is noticed at once, without pings.
"""

import os
from typing import Any

PING_EVERY_S = 10
WORKERS_LIMIT_S = 600  # A scheduler may suspend the learner's process: the worker is patient.
SERVERS_MARGIN_S = 30  # By which the limit of an answer comes before that of pings: it says more.
PLACES_FOR_STRANGERS = 32  # Streams of connections that have not proven themselves.
_HANDSHAKE_S = 10
_IDLE_S = 30  # For a connection without a stream.
_MOST_STREAMS = 8  # Of one connection; a worker has one.

_Options = list[tuple[str, Any]]


def set_up_grpc() -> None:
    """Keeps gRPC's own lines, which any stranger can cause, off the terminal; call it before gRPC is imported.

    And keeps its threads out of the processes that this one starts: gRPC would start them again after the fork, where
    they may find their files closed and abort.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def server_options(longest_bytes: int, longest_answer_s: float, num_workers: int) -> _Options:
    """Returns the options of the learner's side.

    gRPC has one limit of a message's length for all connections. So strangers may make this process hold up to
    `PLACES_FOR_STRANGERS * longest_bytes`.

    Args:
        longest_bytes: the longest message that a worker may send.
        longest_answer_s: the longest time that a worker may take to answer.
        num_workers: workers to admit.
    """
    return [
        *_shared(longest_bytes),
        *_pings(PING_EVERY_S, longest_answer_s + SERVERS_MARGIN_S),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", int(PING_EVERY_S * 500)),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_allowed_incoming_connections", num_workers + 2 * PLACES_FOR_STRANGERS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_S * 1000),
        ("grpc.max_connection_idle_ms", _IDLE_S * 1000),
        ("grpc.max_concurrent_streams", _MOST_STREAMS),
    ]


def worker_options(longest_bytes: int) -> _Options:
    """Returns the options of a worker's side.

    Args:
        longest_bytes: the longest message that the learner may send.
    """
    return [
        *_shared(longest_bytes),
        *_pings(3 * PING_EVERY_S, WORKERS_LIMIT_S),
        ("grpc.use_local_subchannel_pool", 1),  # A connection of its own for each of a process's workers.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 2000),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]


def _shared(longest_bytes: int) -> _Options:
    return [
        ("grpc.max_receive_message_length", longest_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _pings(every_s: float, limit_s: float) -> _Options:
    limit_ms = int(limit_s * 1000)
    return [
        ("grpc.keepalive_time_ms", int(every_s * 1000)),
        ("grpc.keepalive_timeout_ms", limit_ms),
        ("grpc.http2.ping_timeout_ms", limit_ms),
    ]
