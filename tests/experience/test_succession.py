"""Threads that follow each other, and when all of them have ended."""

import threading

from podrl.experience.succession import Succession
from podrl.runtime.ledger import Ledger


class Slow:
    """A pool that closes when it is told to."""

    def __init__(self, may_close):
        self.may_close = may_close

    def close(self):
        self.may_close.wait(60)


def make(work, closing_s=0.0):
    failures = []
    succession = Succession(
        Ledger("actor 0"), work, range(2), fail=failures.append, should_stop=lambda: False, closing_s=closing_s
    )
    return succession, failures


def test_a_thread_that_still_closes_its_environments_has_not_ended():
    may_close, done = threading.Event(), threading.Event()

    def work(todo, pools):
        if len(todo) > 1:
            pools.append(Slow(may_close))
        else:
            done.set()
        return todo[1:]

    succession, failures = make(work)
    succession.start()
    assert done.wait(60)
    assert not succession.join(0.5)
    assert succession.is_alive()
    may_close.set()
    assert succession.join(60)
    assert not succession.is_alive()
    assert failures == []


def test_a_thread_that_cannot_be_started_is_an_error_of_the_run(monkeypatch):
    succession, failures = make(lambda todo, pools: todo[1:])
    begun = []

    def start(thread):
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        real(thread)

    real = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    succession.start()
    assert succession.join(60)
    assert [str(failure) for failure in failures] == ["can't start new thread"]
