"""The threads in which gRPC serves streams."""

from collections.abc import Callable
from concurrent import futures
import threading
from typing import Any


class StreamThreads(futures.ThreadPoolExecutor):
    """A thread for each stream, which the process does not wait for when it ends.

    Python waits for those of its own pools before anything that a program has registered for its end. A stream whose
    server nothing has closed would then never end.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Starts a call in a thread of its own; gRPC bounds their number."""
        future: futures.Future[Any] = futures.Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 (gRPC reads it)
                future.set_exception(error)

        threading.Thread(target=run, name="workers", daemon=True).start()
        return future
