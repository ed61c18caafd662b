"""A wire between workers and a learner that a test can delay, silence and measure."""

from collections.abc import Callable
import contextlib
import socket
import threading
import time

from podrl.experience.remote.endpoint import UNIX, Endpoint


class Wire:
    """Carries connections to a Unix socket, until it is silenced: then it carries nothing, and they stay open.

    Attributes:
        endpoint: where it listens.
        to_learner: Bytes that it has carried to the socket.
    """

    def __init__(self, target: Endpoint, delay_s: Callable[[], float] = lambda: 0.0):
        self._is_silent = False
        self._target, self._delay_s = target.address.removeprefix(UNIX), delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends = [self._listener]
        self.endpoint = Endpoint(f"127.0.0.1:{self._listener.getsockname()[1]}")
        self.to_learner = 0
        self._flows = {direction: threading.Event() for direction in ("to learner", "to worker")}
        for flow in self._flows.values():
            flow.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self):
        self._is_silent = True

    def clog(self, direction):
        """Reads no more in one direction, `to learner` or `to worker`: its pipe fills up."""
        self._flows[direction].clear()

    def close(self):
        for flow in self._flows.values():
            flow.set()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                try:
                    far.connect(self._target)
                except OSError:  # The learner does not listen yet.
                    near.close()
                    continue
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source, target):
        flow = self._flows["to learner" if target.family == socket.AF_UNIX else "to worker"]
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                flow.wait()
                if not self._is_silent:
                    time.sleep(self._delay_s())
                    target.sendall(piece)
                    self.to_learner += len(piece) * (target.family == socket.AF_UNIX)
            if not self._is_silent:
                target.shutdown(socket.SHUT_RDWR)
