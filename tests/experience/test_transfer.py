"""Waiting that ends: for parameters, for updates, with the names of who waited for what."""

import threading
import time

import jax
from jax import numpy as jnp
import pytest

from podrl.experience.parameters import ParameterStore
from podrl.loops.in_flight import InFlight
from podrl.runtime.ledger import Ledger
from podrl.runtime.waiting import Stopped, wait_until


class Unfinished:
    """Stands for an array of a program that never ends: a device that hangs cannot be had in a test."""

    def is_ready(self):
        return False


def make_store():
    device = jax.devices()[0]
    return ParameterStore([device]), device


def fetch(store, device, version, timeout_s=0.2):
    fetched, params = store.fetch(device, range(version, version + 1), timeout_s=timeout_s, who="actor 3")
    assert fetched == version
    return params


def test_an_actor_that_is_several_updates_ahead_waits_as_long_for_each_of_them():
    store, device = make_store()
    store.publish(0, {"w": jnp.zeros(2)})

    def learn():
        for version in range(1, 5):
            time.sleep(0.4)
            store.publish(version, {"w": jnp.full(2, version)})

    learner = threading.Thread(target=learn)
    learner.start()
    assert fetch(store, device, 4, timeout_s=1.2)["w"].tolist() == [4, 4]
    learner.join()


def test_a_version_that_never_comes_is_named():
    store, device = make_store()
    store.publish(4, {"w": jnp.ones(2)})
    with pytest.raises(TimeoutError, match=r"actor 3 waited 0 s for parameters 5 from the learner; the newest are 4"):
        fetch(store, device, 5)


def test_a_version_that_is_gone_is_an_error_at_once():
    store, device = make_store()
    for version in range(3):
        store.publish(version, {"w": jnp.full(2, version)})
    assert fetch(store, device, 1)["w"][0] == 1
    with pytest.raises(RuntimeError, match="actor 3 asked for parameters 0, gone since 2 was published"):
        fetch(store, device, 0, timeout_s=60)


def test_the_newest_that_is_computed_is_taken():
    store = ParameterStore([jax.devices()[0]], keep=4)
    device = jax.devices()[0]
    for version in range(5):
        store.publish(version, {"w": jnp.full(2, version)})
    store._versions[4] = {device: {"w": Unfinished()}}
    version, params = store.fetch(device, range(2, 6), timeout_s=5, who="actor 3")
    assert (version, params["w"][0]) == (3, 3)


def test_stopping_wakes_who_waits():
    store, device = make_store()
    threading.Timer(0.1, store.stop).start()
    start = time.monotonic()
    with pytest.raises(Stopped):
        fetch(store, device, 0, timeout_s=60)
    assert time.monotonic() - start < 10


def test_parameters_reach_actors_outside_of_the_learners_devices():
    learner, actor = jax.devices()[:2]
    store = ParameterStore([actor, learner])
    store.publish(0, jax.device_put({"w": jnp.arange(3)}, learner))
    assert fetch(store, actor, 0, timeout_s=30)["w"].devices() == {actor}
    assert fetch(store, learner, 0, timeout_s=30)["w"].devices() == {learner}


def test_an_update_that_does_not_end_is_named():
    flight = InFlight(Ledger("learner"), lambda: None, timeout_s=0.2, whose="its", remedy="raise actors.timeout_s")
    flight.add("update 7", Unfinished(), lambda end: None)
    flight.wait(unless=lambda: True)
    with pytest.raises(TimeoutError, match="The learner waited 0 s for update 7 to end on its devices"):
        flight.settle()


def test_wait_until_returns_when_the_condition_holds():
    soon = time.monotonic() + 0.05
    wait_until(lambda: time.monotonic() > soon, timeout_s=10, blame=lambda: "")
    assert time.monotonic() > soon
