"""Waits for a TPU slice, creates a missing one, and replaces a preempted one."""

import time

from absl import logging

from podrl.config.config import ConfigError, check
from podrl.launch import gcloud
from podrl.launch.options import Options
from podrl.launch.signals import StopSignals
from podrl.runtime.waiting import Patience

POLL_S = 20.0
_LOST = ("PREEMPTED", "TERMINATED", "SUSPENDED", "FAILED")  # States that no TPU leaves again.
_NO_CAPACITY = ("RESOURCE_EXHAUSTED", "no more capacity", "Insufficient capacity")


def await_slice(options: Options, stop: StopSignals, poll_s: float = POLL_S) -> gcloud.Found | None:
    """Waits until the slice is ready, and creates it, repeatedly, if the options say how; None if told to stop.

    Raises:
        ConfigError: if it does not exist and may not be created, or is not ready within `wait_s`.
    """
    deadline_s, said = time.monotonic() + options.wait_s, ""
    while stop.first is None:
        problem = ""
        try:
            found = gcloud.find_tpu(options)
            if found.state == gcloud.READY:
                return found
            if found.state != said:
                said = found.state
                logging.info("TPU %s in %s is %s.", options.tpu, options.zone, said)
            problem = _make(options, found.state)
        except gcloud.GcloudError as error:  # gcloud has answered before: the network may come back.
            problem = str(error)
            logging.warning("%s", problem)
        left_s = deadline_s - time.monotonic()
        details = f" ({problem})" if problem else ""
        check(
            left_s > 0,
            f"TPU {options.tpu} in {options.zone} was not ready within --wait_s={options.wait_s:g}: it is "
            f"{said or 'out of reach'}{details}. Wait longer, or try another zone or type.",
        )
        patience = Patience(min(poll_s, left_s))
        while patience.left_s() and stop.first is None:
            time.sleep(min(0.1, poll_s))
    return None


def _make(options: Options, state: str) -> str:
    """Creates a missing slice, after deleting what is left of a lost one; returns what went wrong.

    Raises:
        ConfigError: if it may not be created, or never can be.
    """
    if state != gcloud.ABSENT and state not in _LOST:
        return ""
    check(
        options.accelerator_type is not None,
        f"TPU {options.tpu} in {options.zone} is {state}. Create it first, or add --accelerator_type and "
        "--runtime_version to have it created.",
    )
    try:
        if state in _LOST:
            gcloud.delete(options)
        gcloud.create(options)
    except gcloud.GcloudError as error:
        if not any(sign in str(error) for sign in _NO_CAPACITY):
            raise ConfigError(str(error)) from None
        logging.warning("%s", error)
        return str(error)
    return ""
