"""The same run on other numbers of hosts, with other splits of a host's devices, and with enough environments."""

import dataclasses
import math
from typing import NamedTuple

from podrl.performance.planning import model
from podrl.performance.planning.compilation import RunCosts
from podrl.performance.planning.costs import Cost
from podrl.performance.planning.model import Hardware, Prediction, predict

# A state's part of an optimizer step's memory traffic: gradients, and parameters and moments read and written.
_STATE_PASSES = 3
_BUSY = 0.95  # Of what devices could do: more than that vCPUs need not bring about.


class Needs(NamedTuple):
    """What a host needs to keep its devices at 95 % of what they could do."""

    env_steps_per_s: float  # that the devices of a host would then take
    vcpus: float  # that step as many
    environments: float  # that are under way at once at that rate
    worker_hosts: int  # of environment workers, with as many; 0 where there are none
    wire_bytes_per_s: float  # that these would send; 0 without


def resize(run: RunCosts, hosts: int, *, weak: bool) -> RunCosts:
    """The same run on another number of hosts; with `weak` the batch grows with them, else each device's part does."""
    share = 1.0 if weak else run.hosts / hosts
    envs = round(run.config.actors.num_envs * (hosts / run.hosts if weak else 1))
    actors = dataclasses.replace(run.config.actors, num_envs=max(1, envs))
    envs_per_pool = max(1, round(run.layout.envs_per_pool * share))
    found = dataclasses.replace(
        _with_shares(run, share, share),
        config=dataclasses.replace(run.config, actors=actors),
        hosts=hosts,
        layout=dataclasses.replace(run.layout, envs_per_pool=envs_per_pool, num_processes=hosts),
        rollout_bytes=round(run.rollout_bytes * share),
    )
    product_flops = found.update.product_flops * (hosts / run.hosts)
    return dataclasses.replace(found, update=dataclasses.replace(found.update, product_flops=product_flops))


def scaling(run: RunCosts, machine: Hardware, *, weak: bool) -> list[tuple[int, Prediction, float]]:
    """From one host to all of them, doubling: (hosts, prediction, efficiency against the fewest).

    Numbers of hosts whose devices could not hold their part of the batch are left out; `weak` is as in `resize`.
    """
    counts = sorted({*(2**n for n in range(run.hosts.bit_length())), run.hosts})
    runs = [resize(run, count, weak=weak) for count in counts if count <= run.hosts]
    fitting = [one for one in runs if one.hosts == run.hosts or one.peak_bytes <= machine.memory_bytes]
    predictions = [predict(one, _of_part(machine, one.hosts / run.hosts)) for one in fitting]
    base = predictions[0].env_steps_per_s / fitting[0].hosts
    return [
        (one.hosts, found, found.env_steps_per_s / one.hosts / base)
        for one, found in zip(fitting, predictions, strict=True)
    ]


def splits(run: RunCosts, machine: Hardware) -> list[tuple[int, int, Prediction]]:
    """Ways to split a host's devices: (actors, learners, prediction), the fastest first.

    They are those into powers of two, and all devices doing both, as far as the environments divide over them and a
    device's memory holds its part. Among equals the one whose devices have most time left comes first.
    """
    powers = [2**n for n in range(run.devices.bit_length()) if 2**n < run.devices]
    choices = [(a, n) for a in powers for n in powers if a + n <= run.devices]
    choices = [(run.devices, run.devices), *([] if run.is_undivided else choices)]
    now = (run.actors, run.learners)
    possible = [choice for choice in choices if choice != now and _is_possible(run, *choice, machine)]
    tried = [(a, n, predict(_split(run, a, n), machine)) for a, n in [now, *possible]]
    return sorted(tried, key=lambda one: (-round(one[2].env_steps_per_s), max(one[2].learner_busy, one[2].actor_busy)))


def needs(run: RunCosts, machine: Hardware) -> Needs:
    """What a host needs so that environments hardly limit the run: vCPUs, and enough environments for them."""
    unlimited = dataclasses.replace(machine, env_steps_per_core_s=math.inf)
    rate = _BUSY * predict(run, unlimited, enough_envs=True).env_steps_per_s / run.hosts
    stages = model.stage_seconds(run, machine)
    collect_s = run.env_steps_of_host / rate
    if model.is_in_turn(run):
        collect_s -= stages["transfer"] + model.learn_seconds(stages)
    env_s = collect_s if run.layout.pools_per_actor > 1 else collect_s - model.act_seconds(stages)
    vcpus = run.env_steps_of_host / machine.env_steps_per_core_s / env_s
    turn_s = stages["turns"] / run.config.actors.unroll_length
    workers = machine.worker_cores > 0
    return Needs(
        env_steps_per_s=rate,
        vcpus=vcpus,
        environments=max(vcpus, run.env_steps_of_host / collect_s * turn_s),
        worker_hosts=math.ceil(vcpus / machine.worker_cores) if workers else 0,
        wire_bytes_per_s=rate * model.wire_bytes(run) / run.env_steps_of_host if workers else 0.0,
    )


def _is_possible(run: RunCosts, actors: int, learners: int, machine: Hardware) -> bool:
    """Whether environments divide (see `make_layout`), layers can be split, and memory is enough."""
    config, (minibatches, _) = run.config, run.config.agent.update_shape.grid
    pools = run.hosts * actors * config.actors.threads_per_device * config.actors.pools_per_thread
    divides = config.actors.num_envs % (pools * learners // run.model_devices * minibatches) == 0
    fits = _split(run, actors, learners).peak_bytes <= machine.memory_bytes
    return divides and fits and learners % run.model_devices == 0


def _split(run: RunCosts, actors: int, learners: int) -> RunCosts:
    """The run with its host's environments and batch over other numbers of devices."""
    found = _with_shares(run, run.actors / actors, run.learners / learners)
    return dataclasses.replace(found, actors=actors, learners=learners)


def _with_shares(run: RunCosts, act: float, update: float) -> RunCosts:
    """The run with so many times as many environments on each actor device, and rows on each learner device."""
    state_traffic = _STATE_PASSES * run.reductions * run.state_bytes
    return dataclasses.replace(
        run,
        act=run.act and _with_rows(run.act, act, run.parameter_bytes, run.parameter_bytes),
        update=_with_rows(run.update, update, state_traffic, run.state_bytes),
        upload_bytes=round(run.upload_bytes * act),
        download_bytes=round(run.download_bytes * act),
    )


def _with_rows(cost: Cost, factor: float, fixed_traffic: float, fixed_bytes: int) -> Cost:
    """A program's cost with `factor` times the rows, on which a part of its traffic and arguments does not depend."""
    fixed = min(fixed_traffic, cost.bytes_accessed)
    whole = min(fixed_bytes, cost.argument_bytes)
    return dataclasses.replace(
        cost,
        flops=cost.flops * factor,
        product_flops=cost.product_flops * factor,
        bytes_accessed=fixed + (cost.bytes_accessed - fixed) * factor,
        argument_bytes=round(whole + (cost.argument_bytes - whole) * factor),
        temporary_bytes=round(cost.temporary_bytes * factor),
    )


def _of_part(machine: Hardware, share: float) -> Hardware:
    """The machine in a smaller torus, each axis shortened alike."""
    shrink = share ** (1 / len(machine.shape))
    return dataclasses.replace(machine, shape=tuple(max(1, round(axis * shrink)) for axis in machine.shape))
