"""One process of a job: joins the others, and does what its command line says. Prints one line of JSON per result."""

import atexit
import ctypes
import json
import os
from pathlib import Path
import sys
import time

from jax.experimental import multihost_utils
import numpy as np

from podrl.config.config import ConfigError
from podrl.runtime.job.detection import find_membership
from podrl.runtime.job.joining import join
from podrl.runtime.job.preflight import check_agreement, check_shared_workdir
from podrl.telemetry.log_lines import configure_logging

LONG_S = 300.0
HELD_S = 55


def tell(**results):
    sys.stdout.write(json.dumps(results) + "\n")
    sys.stdout.flush()


def exchange(job):
    """Values of the others, of two rounds of the same name, and by name; then an end in good order."""
    me = str(job.process_index)
    tell(first=job.exchange("greetings", f"hello from {me}", LONG_S), second=job.exchange("greetings", me, LONG_S))
    job.send("word", f"from {me}")
    tell(received=job.receive((job.process_index + 1) % job.process_count, "word", LONG_S))
    tell(sum=float(np.sum(multihost_utils.process_allgather(np.ones(3)))))
    job.exchange("end", "", LONG_S)
    job.leave(0)
    tell(left=True)


def wait(job):
    """Waits for something that never comes."""
    job.on_loss = lambda: tell(on_loss=True)
    tell(waits=True, process=os.getpid())
    time.sleep(LONG_S)


def patience(job):
    """Process 0 waits for the others' value, which never comes; then for ever, and process 1 leaves it behind."""
    if job.process_index == 0:
        told = []
        for call in (lambda: job.exchange("answers", "", 1.0), lambda: job.receive(1, "word", 1.0)):
            try:
                call()
            except TimeoutError as error:
                told.append(str(error))
        tell(errors=told)
    job.exchange("end", "", LONG_S)
    if job.process_index == 0:
        time.sleep(LONG_S)
    job.leave(75, 1.0)
    sys.exit(75)


def collective(job):
    """All but the last are inside a collective when they lose it."""
    tell(waits=True, process=os.getpid())
    if job.process_index == job.process_count - 1:
        time.sleep(LONG_S)
    try:
        multihost_utils.process_allgather(np.ones(3))
    except Exception:  # noqa: BLE001 (whatever the runtime raises)
        tell(explained=job.explain_loss(LONG_S))
        sys.stdout.flush()
        os._exit(job.exit_code)


def fail(job, holds="nobody"):
    """The last one says why it ends; one that `holds` its interpreter hears of it late."""
    job.exchange("start", "", LONG_S)
    if holds == str(job.process_index):
        ctypes.PyDLL(None).sleep(HELD_S)
    if job.process_index == job.process_count - 1:
        job.fail("ValueError: the environment's rewards are not finite", 3)
        sys.exit(3)
    time.sleep(LONG_S)


def forget(job, holds="nobody"):
    """Process 1 ends without a word to its job.

    One that `holds` its interpreter has it do so in a call to JAX's service, which comes back while Python shuts down.
    """
    job.exchange("start", "", LONG_S)
    if holds == str(job.process_index):
        ctypes.PyDLL(None).sleep(8)
    if job.process_index == 0:
        time.sleep(LONG_S)
    if holds != "nobody":
        sys.modules["slow to go"] = SlowToGo()
        time.sleep(3.0)
    raise OSError("no word to the job")


class SlowToGo:
    """Goes when Python forgets its modules, and lets other threads run meanwhile."""

    def __del__(self, sleep=time.sleep):
        sleep(10.0)


def hold_interpreter(job):
    """Process 0 keeps every other Python thread of its own from running, for longer than a heartbeat may take."""
    if job.process_index == 0:
        ctypes.PyDLL(None).sleep(HELD_S)
    tell(exchanged=job.exchange("afterwards", "", LONG_S))
    job.leave(0)


def agree(job, *facts):
    """Compares facts, one list of KEY=VALUE for each process."""
    tell(skew_s=check_agreement(job, dict(fact.split("=") for fact in facts[job.process_index].split(",")), LONG_S))
    job.leave(0)


def workdir(job, *folders):
    """Checks each process's folder."""
    check_shared_workdir(job, folders[job.process_index], LONG_S)
    tell(files=os.listdir(folders[job.process_index]) if Path(folders[job.process_index]).is_dir() else None)
    job.leave(0)


def draw(job, kind):
    """Updates of a ring over the devices of all processes; tells what each update drew."""
    from tests.replay.rings import draw_everywhere  # Slow to import, and only this needs it.

    tell(drawn=draw_everywhere(kind, devices=job.process_count))
    job.exchange("end", "", LONG_S)
    job.leave(0)


def main(address, count, index, timeout_s, action, *arguments):
    configure_logging(process_index=int(index))
    try:
        membership = find_membership({}, coordinator=address, process_count=int(count), process_index=int(index))
        tell(begins=True)
        atexit.register(tell, shuts_down=True)
        job = join(membership, float(timeout_s), os.environ)
        tell(joined=list(job.hosts), proxies={name: os.environ[name] for name in os.environ if "_proxy" in name})
        globals()[action](job, *arguments)
    except ConfigError as error:
        sys.stderr.write(f"podrl: error: {error}\n")
        sys.exit(2)
    except TimeoutError as error:
        sys.stderr.write(f"podrl: error: {error}\n")
        sys.exit(124)


if __name__ == "__main__":
    main(*sys.argv[1:])
