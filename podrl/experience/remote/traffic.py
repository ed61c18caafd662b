"""What crosses the wire between a learner's process and its workers, counted by kind."""

from collections.abc import Sequence
import threading

from podrl.experience.remote.messages import Kind

ROW_PREFIX = "remote/"  # Of the keys of rows.


class Traffic:
    """Messages and bytes by kind; thread-safe.

    Bytes are those of the messages. TLS, HTTP/2 and TCP add theirs, which are not counted.

    Attributes:
        messages: Their number, by kind.
        bytes: Their bytes, by kind.
    """

    def __init__(self) -> None:
        """Starts at zero."""
        self.messages = dict.fromkeys(Kind, 0)
        self.bytes = dict.fromkeys(Kind, 0)
        self._in, self._out = [0, 0], [0, 0]  # Messages and bytes.
        self._lock = threading.Lock()

    def send(self, kind: Kind, size_bytes: int) -> None:
        """Counts a message to a worker."""
        self._count(self._out, kind, size_bytes)

    def receive(self, kind: Kind, size_bytes: int) -> None:
        """Counts a message from a worker."""
        self._count(self._in, kind, size_bytes)

    def totals(self) -> dict[str, int]:
        """Returns all counts so far by their keys in rows; of kinds, those that there were."""
        with self._lock:
            named = {
                key: count
                for direction, counts in (("in", self._in), ("out", self._out))
                for key, count in zip((f"messages_{direction}", f"bytes_{direction}"), counts, strict=True)
            }
            for kind in (kind for kind in Kind if self.messages[kind]):
                name = kind.name.lower()
                named |= {f"messages/{name}": self.messages[kind], f"bytes/{name}": self.bytes[kind]}
        return {ROW_PREFIX + key: count for key, count in named.items()}

    def describe(self, kinds: Sequence[Kind]) -> str:
        """Returns the counts of these kinds in words."""
        return " and ".join(
            f"{self.messages[kind]:,} {kind.name} messages of {self.bytes[kind] / 1e6:,.1f} MB" for kind in kinds
        )

    def _count(self, direction: list[int], kind: Kind, size_bytes: int) -> None:
        with self._lock:
            self.messages[kind] += 1
            self.bytes[kind] += size_bytes
            direction[0] += 1
            direction[1] += size_bytes
