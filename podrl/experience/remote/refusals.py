"""Connections that the learner's server has refused."""

import threading

from absl import logging

_MOST_NAMED = 100  # Hosts and reasons.


class Refusals:
    """Counts refused connections, and names them in the log: each host once for each reason.

    Attributes:
        count: their number.
    """

    def __init__(self) -> None:
        """Starts at zero."""
        self.count = 0
        self._named: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def add(self, peer: str, why: str) -> None:
        """Notes one, with its address as gRPC writes it and the reason."""
        peer = peer or "one that has left"
        host = peer.rpartition(":")[0] if peer.startswith("ipv") else peer
        with self._lock:
            self.count += 1
            is_new = (host, why) not in self._named and len(self._named) < _MOST_NAMED
            if is_new:
                self._named.add((host, why))
        if is_new:
            logging.warning("Refused a connection from %s to the workers' address: %s.", peer, why)
