"""The seats of a run's environment workers: who has come, who was lost, and whether others may come for them."""

from absl import logging

from podrl.experience.remote.connection import WorkerConnection


class Seats:
    """A number of seats. Not safe for several threads: the server holds a lock.

    Attributes:
        workers: those that are there, by seat.
        have_all_come: whether all seats have been taken at once, be it some time ago.
    """

    def __init__(self, count: int, *, replaces: bool):
        """Creates empty seats.

        Args:
            count: their number.
            replaces: whether another worker may come for one that is lost after all have come.
        """
        self._count, self._replaces = count, replaces
        self.workers: dict[int, WorkerConnection] = {}
        self.have_all_come = False

    def find_free(self) -> int | None:
        """Returns the first free seat, if there is one."""
        self.drop_lost()
        return next((index for index in range(self._count) if index not in self.workers), None)

    def see_all(self) -> bool:
        """Returns whether all have come."""
        self.drop_lost()
        self.have_all_come |= len(self.workers) == self._count
        return self.have_all_come

    def drop_lost(self) -> None:
        """Frees the seats of lost workers for which others may come, and names these in the log."""
        when = "was lost" if self.have_all_come else "left before all were there"
        for index, worker in list(self.workers.items()):
            if worker.why_lost and (self._replaces or not self.have_all_come):
                del self.workers[index]
                logging.warning("%s %s: %s. Waits for another.", worker.name, when, worker.why_lost)
