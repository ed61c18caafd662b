"""From what a run's programs cost and what a machine can do, to how fast the run will be.

A roofline of our own: a program takes the longer of its arithmetic and its memory traffic, each at the share of the
peak that `Hardware.achieved` says programs reach. The stages of an update are environments, acting (with a round trip
between host and device for every step), the rollouts' way to the learner, learning, and the reduction of gradients.
With a lag of one, stages on different devices overlap, and an update takes as long as the longest of them. If acting is
synchronous it takes their sum; so it does where a device acts and learns, since programs run there one after the other:
nobody acts, and environments wait for actions, while an update runs. An environment takes one core at a time and waits
for its actions: few of them leave cores idle. Where all stages share a machine's cores their core-seconds add up
(`podrl.performance.planning.local`).

What it leaves out: stragglers and the waiting of hosts for each other (`podrl.performance.planning.simulation` has
them), the host's own work in Python, evaluation, checkpoints, input and output, caches, and whatever a compiler's count
of memory traffic does not see.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

from podrl.performance.planning.compilation import RunCosts
from podrl.performance.planning.costs import Cost
from podrl.performance.planning.slices import Slice

# A state's part of an optimizer step's memory traffic: gradients, and parameters and moments read and written.
_STATE_PASSES = 3
_HOP_S = 1e-6  # of a collective, for each chip along the torus
_NETWORK_HOP_S = 20e-6  # for each doubling of hosts, where a collective crosses their network
_BUSY = 0.95  # Of what devices could do: more than that vCPUs need not bring about.

LIMITS = {
    "env": "host environments",
    "act_compute": "acting: compute",
    "act_memory": "acting: memory bandwidth",
    "act_link": "acting: host link and dispatch",
    "turns": "each environment's turns with its actions",
    "transfer": "rollouts' way to the learner",
    "learn_compute": "learning: compute",
    "learn_memory": "learning: memory bandwidth",
    "interconnect": "learning: interconnect",
}

_COLLECT = ("env", "act_compute", "act_memory", "act_link")
_LEARN = ("learn_compute", "learn_memory", "interconnect")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a host and its devices can do.

    Attributes:
        flops: FLOP/s of each device.
        memory_bytes_per_s: of each device.
        memory_bytes: of each device.
        interconnect_bytes_per_s: between devices of one host, one way, for each device.
        network_bytes_per_s: out of a host for the reduction of gradients; None where the interconnect spans hosts.
        link_bytes_per_s: between host and each device, one way.
        dispatch_s: of one call of a program with a round trip to the device, whatever it does.
        cores: of a host, that step environments.
        env_steps_per_core_s: of environments alone on one of those cores.
        achieved: share of the peaks that programs reach.
        shape: of the whole torus, for the number of hops.
    """

    flops: float
    memory_bytes_per_s: float
    memory_bytes: float
    interconnect_bytes_per_s: float
    network_bytes_per_s: float | None
    link_bytes_per_s: float
    dispatch_s: float
    cores: float
    env_steps_per_core_s: float
    achieved: float
    shape: tuple[int, ...] = (1,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """How fast a run will be.

    Attributes:
        update_s: seconds that an update takes.
        stages: seconds of each stage in an update, on the device or host that does it, by the keys of `LIMITS`.
        limit: the key of `LIMITS` that decides.
        env_steps_per_update: of the whole job.
        frames_per_step: emulator frames of an env step.
        of_peak: arithmetic of networks as a share of what all devices could do.
        learner_busy: share of the time that learner devices learn.
        actor_busy: share of the time that actor devices act.
    """

    update_s: float
    stages: Mapping[str, float]
    limit: str
    env_steps_per_update: float
    frames_per_step: int
    of_peak: float
    learner_busy: float
    actor_busy: float

    @property
    def updates_per_s(self) -> float:
        """Of the learner."""
        return 1 / self.update_s

    @property
    def env_steps_per_s(self) -> float:
        """Agent decisions, of the whole job."""
        return self.env_steps_per_update / self.update_s

    @property
    def frames_per_s(self) -> float:
        """Emulator frames, of the whole job."""
        return self.env_steps_per_s * self.frames_per_step


def machine_of(
    slice_: Slice,
    *,
    float32: bool,
    env_steps_per_vcpu_s: float,
    vcpus: float | None = None,
    achieved: float,
    dispatch_s: float,
) -> Hardware:
    """What the table says of a slice's hosts.

    Args:
        slice_: the slice.
        float32: whether networks compute in float32.
        env_steps_per_vcpu_s: of environments alone on one hardware thread.
        vcpus: hardware threads that step environments; by default nine in ten of the host's.
        achieved: share of the peaks that programs reach.
        dispatch_s: of a call with a round trip to the device.
    """
    chip, host = slice_.chip, slice_.host
    return Hardware(
        flops=chip.flops_float32 if float32 else chip.flops,
        memory_bytes_per_s=chip.memory_bytes_per_s,
        memory_bytes=chip.memory_bytes,
        interconnect_bytes_per_s=chip.interconnect_bytes_per_s,
        network_bytes_per_s=None if chip.interconnect_spans_hosts else host.network_bytes_per_s,
        link_bytes_per_s=host.link_bytes_per_s,
        dispatch_s=dispatch_s,
        cores=0.9 * host.vcpus if vcpus is None else vcpus,
        env_steps_per_core_s=env_steps_per_vcpu_s,
        achieved=achieved,
        shape=slice_.shape,
    )


def predict(
    run: RunCosts, machine: Hardware, *, synchronous: bool | None = None, enough_envs: bool = False
) -> Prediction:
    """How fast a run will be.

    Args:
        run: what it costs.
        machine: what each of its hosts can do.
        synchronous: whether acting waits for the newest parameters; by default as the config says.
        enough_envs: whether to suppose that there are always environments to step.
    """
    stages = stage_seconds(run, machine, enough_envs=enough_envs)
    act, learn = _act_seconds(stages), _learn_seconds(stages)
    if synchronous is None:
        synchronous = run.config.actors.synchronous
    # With several pools a thread's environments step while the device acts for others; with one they take turns.
    collect = max(stages["env"], act) if run.layout.pools_per_actor > 1 else stages["env"] + act
    names: tuple[str, ...] = _COLLECT if collect >= stages["turns"] else ("turns",)
    collect = max(collect, stages["turns"])
    names = names if collect >= learn else _LEARN
    if _is_in_turn(run, synchronous):
        update_s = collect + stages["transfer"] + learn
    else:
        update_s = max(collect, learn, stages["transfer"])
        names = names if update_s > stages["transfer"] else ("transfer",)
    limit = max(names, key=lambda name: stages[name])
    work = run.update.product_flops
    if run.act is not None:
        work += run.act.product_flops * run.acting_calls * run.actors * run.hosts
    return Prediction(
        update_s=update_s,
        stages=stages,
        limit=limit,
        env_steps_per_update=run.config.env_steps_per_update,
        frames_per_step=run.frames_per_step,
        of_peak=work / (update_s * machine.flops * run.devices * run.hosts),
        learner_busy=learn / update_s,
        actor_busy=max(stages["act_compute"], stages["act_memory"]) / update_s,
    )


def _is_in_turn(run: RunCosts, synchronous: bool) -> bool:
    """Whether nobody acts while an update runs."""
    return synchronous or run.is_fused or run.shares_devices


def _act_seconds(stages: Mapping[str, float]) -> float:
    """Of all acting calls of a device in an update."""
    return stages["act_link"] + max(stages["act_compute"], stages["act_memory"])


def _learn_seconds(stages: Mapping[str, float]) -> float:
    """Of learning in an update."""
    return stages["interconnect"] + max(stages["learn_compute"], stages["learn_memory"])


def stage_seconds(run: RunCosts, machine: Hardware, *, enough_envs: bool = False) -> dict[str, float]:
    """Seconds of each stage in an update, by the keys of `LIMITS`.

    Args:
        run: what it costs.
        machine: what each of its hosts can do.
        enough_envs: whether to suppose that there is one for each core at least.
    """
    compute_s, memory_s = _roofline(run.update, machine)
    stages = dict.fromkeys(LIMITS, 0.0)
    stages |= {
        "learn_compute": compute_s,
        "learn_memory": memory_s,
        "interconnect": reduction_seconds(run, machine),
    }
    if run.act is None:
        return stages
    compute_s, memory_s = _roofline(run.act, machine)
    cores = machine.cores if enough_envs else min(machine.cores, run.envs_of_host)
    link_s = machine.dispatch_s + (run.upload_bytes + run.download_bytes) / machine.link_bytes_per_s
    moved = run.rollout_bytes / run.learners if not _all_share(run) else 0.0
    stages |= {
        "env": run.env_steps_of_host / (cores * machine.env_steps_per_core_s),
        "act_compute": run.acting_calls * compute_s,
        "act_memory": run.acting_calls * memory_s,
        "act_link": run.acting_calls * link_s,
        "transfer": moved / machine.interconnect_bytes_per_s,
    }
    if not enough_envs:
        turn_s = 1 / machine.env_steps_per_core_s + _act_seconds(stages) / run.acting_calls
        stages["turns"] = run.config.actors.unroll_length * turn_s
    return stages


def reduction_seconds(run: RunCosts, machine: Hardware) -> float:
    """Of all collectives of an update: each in a ring over the devices that take part in it, and the hops around it."""
    devices = run.learners * run.hosts
    if devices == 1:
        return 0.0
    sizes = {"all": devices, "data": devices // run.model_devices, "model": run.model_devices}
    size = sum(each.size_bytes * _ring_share(each.kind, sizes[each.axis]) for each in run.update.collectives)
    seconds = size / machine.interconnect_bytes_per_s + run.reductions * 2 * sum(machine.shape) * _HOP_S
    if machine.network_bytes_per_s is None or run.hosts == 1:
        return seconds
    leaving = [each for each in run.update.collectives if each.axis != "model"]
    across = sum(each.size_bytes * _ring_share(each.kind, run.hosts) for each in leaving)
    return seconds + across / machine.network_bytes_per_s + run.reductions * math.log2(run.hosts) * _NETWORK_HOP_S


def _ring_share(kind: str, devices: int) -> float:
    """Bytes that a device sends in a ring for each byte of a collective's result."""
    if kind == "all-reduce":
        return 2 * (devices - 1) / devices
    if kind == "reduce-scatter":
        return devices - 1
    return 1.0 if kind.startswith("collective") else (devices - 1) / devices


def resize(run: RunCosts, hosts: int, *, weak: bool) -> RunCosts:
    """The same run on another number of hosts, each as before.

    Args:
        run: on its own hosts.
        hosts: how many instead.
        weak: whether the batch grows with the hosts; else it stays, and each device's share changes.
    """
    share = 1.0 if weak else run.hosts / hosts
    envs = round(run.config.actors.num_envs * (hosts / run.hosts if weak else 1))
    actors = dataclasses.replace(run.config.actors, num_envs=max(1, envs))
    rows = round(run.layout.envs_per_pool * share)
    update = _with_rows(run.update, share, _state_traffic(run), run.state_bytes)
    work = update.product_flops * (hosts / run.hosts)
    return dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, actors=actors),
        hosts=hosts,
        layout=dataclasses.replace(run.layout, envs_per_pool=max(1, rows), num_processes=hosts),
        act=run.act and _with_rows(run.act, share, run.parameter_bytes, run.parameter_bytes),
        update=dataclasses.replace(update, product_flops=work),
        upload_bytes=round(run.upload_bytes * share),
        download_bytes=round(run.download_bytes * share),
        rollout_bytes=round(run.rollout_bytes * share),
    )


def scaling(run: RunCosts, machine: Hardware, *, weak: bool) -> list[tuple[int, Prediction, float]]:
    """From one host to all of them, doubling: (hosts, prediction, efficiency against the fewest).

    Numbers of hosts whose devices could not hold their part of the batch are left out.

    Args:
        run: on all its hosts.
        machine: of each host.
        weak: whether the batch grows with the hosts.
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
    device's memory holds its part.
    """
    powers = [2**n for n in range(run.devices.bit_length()) if 2**n < run.devices]
    choices = [(a, n) for a in powers for n in powers if a + n <= run.devices]
    choices = [(run.devices, run.devices), *([] if run.is_undivided else choices)]
    now = (run.actors, run.learners)
    possible = [choice for choice in choices if choice != now and _is_possible(run, *choice, machine)]
    tried = [(a, n, predict(_split(run, a, n), machine)) for a, n in [now, *possible]]

    def rank(choice: tuple[int, int, Prediction]) -> tuple[float, float]:
        """Fastest first; among equals the one whose devices have most time left."""
        found = choice[2]
        return -round(found.env_steps_per_s), max(found.learner_busy, found.actor_busy)

    return sorted(tried, key=rank)


def _is_possible(run: RunCosts, actors: int, learners: int, machine: Hardware) -> bool:
    """Whether environments divide (see `make_layout`), layers can be split, and memory is enough."""
    config, (minibatches, _) = run.config, run.config.agent.update_shape.grid
    pools = run.hosts * actors * config.actors.threads_per_device * config.actors.pools_per_thread
    divides = config.actors.num_envs % (pools * learners // run.model_devices * minibatches) == 0
    fits = _split(run, actors, learners).peak_bytes <= machine.memory_bytes
    return divides and fits and learners % run.model_devices == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What a host needs to keep its devices busy.

    Attributes:
        env_steps_per_s: that the devices of a host would then take, 95 % of what they could.
        vcpus: that step as many.
        environments: that are under way at once at that rate.
    """

    env_steps_per_s: float
    vcpus: float
    environments: float


def needs(run: RunCosts, machine: Hardware) -> Needs:
    """What a host needs so that environments hardly limit the run: vCPUs, and enough environments for them."""
    unlimited = predict(
        run, dataclasses.replace(machine, env_steps_per_core_s=math.inf), enough_envs=True
    ).env_steps_per_s
    target = _BUSY * unlimited

    def is_enough(vcpus: float) -> bool:
        found = predict(run, dataclasses.replace(machine, cores=vcpus), enough_envs=True)
        return found.env_steps_per_s >= target

    few, many = 0.0, 1.0
    if math.isinf(machine.env_steps_per_core_s):
        many = 0.0
    else:
        while not is_enough(many):
            few, many = many, 2 * many
        while many - few > 0.001 * many:
            middle = (few + many) / 2
            few, many = (few, middle) if is_enough(middle) else (middle, many)
    rate = target / run.hosts
    stages = stage_seconds(run, machine)
    collect_s = run.env_steps_of_host / rate
    if _is_in_turn(run, run.config.actors.synchronous):
        collect_s -= stages["transfer"] + _learn_seconds(stages)
    turn_s = stages["turns"] / run.config.actors.unroll_length
    return Needs(env_steps_per_s=rate, vcpus=many, environments=max(many, run.env_steps_of_host / collect_s * turn_s))


def _split(run: RunCosts, actors: int, learners: int) -> RunCosts:
    """The run with its host's environments and batch over other numbers of devices."""
    more = run.actors / actors
    act = run.act and _with_rows(run.act, more, run.parameter_bytes, run.parameter_bytes)
    share = run.learners / learners
    return dataclasses.replace(
        run,
        actors=actors,
        learners=learners,
        act=act,
        update=_with_rows(run.update, share, _state_traffic(run), run.state_bytes),
        upload_bytes=round(run.upload_bytes * more),
        download_bytes=round(run.download_bytes * more),
    )


def _state_traffic(run: RunCosts) -> float:
    """Memory traffic of an update that does not depend on its rows."""
    return _STATE_PASSES * run.reductions * run.state_bytes


def _with_rows(cost: Cost, factor: float, fixed_traffic: float, fixed_bytes: int) -> Cost:
    """A program's cost with `factor` times the rows, on which a part of its traffic and arguments does not depend."""
    fixed = min(fixed_traffic, cost.bytes_accessed)
    whole = min(fixed_bytes, cost.argument_bytes)
    return dataclasses.replace(
        cost.scaled(factor),
        bytes_accessed=fixed + (cost.bytes_accessed - fixed) * factor,
        argument_bytes=round(whole + (cost.argument_bytes - whole) * factor),
        temporary_bytes=round(cost.temporary_bytes * factor),
    )


def _of_part(machine: Hardware, share: float) -> Hardware:
    """The machine in a smaller torus, each axis shortened alike."""
    axes: Sequence[int] = machine.shape
    shrink = share ** (1 / len(axes))
    return dataclasses.replace(machine, shape=tuple(max(1, round(axis * shrink)) for axis in axes))


def _roofline(cost: Cost, machine: Hardware) -> tuple[float, float]:
    """Seconds of one execution by arithmetic, and by memory traffic."""
    return (
        cost.flops / (machine.flops * machine.achieved),
        cost.bytes_accessed / (machine.memory_bytes_per_s * machine.achieved),
    )


def _all_share(run: RunCosts) -> bool:
    """Whether rollouts are learned from where they were made."""
    return run.actors == run.learners == run.devices
