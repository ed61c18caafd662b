"""From what a run's programs cost and what a chip can do, to how fast the run will be.

A roofline: a program takes the longer of its arithmetic and its memory traffic, each at the share of the peak that
`Hardware.achieved` says programs reach. `podrl.performance.composition` makes a run's rate of its stages' times. An
environment takes one core at a time and waits for its actions: few of them leave cores idle.

It leaves out the host's own work in Python, and whatever a compiler's count of memory traffic does not see.
"""

from collections.abc import Mapping
import dataclasses
import math

from podrl.experience.schedule import max_lag
from podrl.performance.composition import Overlap, compose
from podrl.performance.planning.compilation import RunCosts
from podrl.performance.planning.costs import Cost
from podrl.performance.planning.slices import Slice

_HOP_S = 1e-6  # of a collective, for each chip along the torus
_NETWORK_HOP_S = 20e-6  # for each doubling of hosts, where a collective crosses their network

LIMITS = {
    "env": "host environments",
    "wire": "the wire to environment workers",
    "act_compute": "acting: compute",
    "act_memory": "acting: memory bandwidth",
    "act_link": "acting: host link and dispatch",
    "turns": "each environment's turns with its actions",
    "transfer": "rollouts' way to the learner",
    "learn_compute": "learning: compute",
    "learn_memory": "learning: memory bandwidth",
    "interconnect": "learning: interconnect",
}
# The stages of which the largest is named where one of `podrl.performance.composition`'s parts decides.
_PARTS = {
    "collect": ("env", "wire", "act_compute", "act_memory", "act_link"),
    "learn": ("learn_compute", "learn_memory", "interconnect"),
    "turns": ("turns",),
    "transfer": ("transfer",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a plan needs to know that no compiler tells."""

    env_steps_per_vcpu_s: float  # of environments alone; infinite where they are inside the compiled program
    env_source: str  # where that figure comes from, for people
    vcpus: float | None  # of a host, or of a worker host, that step environments; None for nine in ten of a host's
    achieved: float  # share of the peaks that programs reach
    dispatch_s: float  # of one acting call, with its round trip between host and device
    env_workers: int = 0  # hosts of environment workers beside each host; 0 where it steps environments itself
    wire_s: float = 0.0  # of a round trip between a host and its environment workers

    def describe(self) -> list[str]:
        """Lines for people."""
        shares = f"programs reach {self.achieved:.0%} of the peaks of arithmetic and memory (assumed)"
        if math.isinf(self.env_steps_per_vcpu_s):
            left_out = "environments' own arithmetic and the latency of small operations are left out (an upper bound)"
            return [shares, left_out]
        rate = f"environments: {self.env_steps_per_vcpu_s:,.0f} steps/s on each vCPU ({self.env_source})"
        dispatch = f"{self.dispatch_s * 1e3:g} ms for each acting call's round trip (assumed)"
        wire = f"{self.wire_s * 1e3:g} ms for each round trip to environment workers, and nothing of a host's own cores"
        return [rate, shares, dispatch, *([f"{wire} (assumed)"] if self.env_workers else [])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a host and its devices can do."""

    flops: float  # FLOP/s of each device
    memory_bytes_per_s: float  # of each device
    memory_bytes: float  # of each device
    interconnect_bytes_per_s: float  # between devices of one host, one way, for each device
    network_bytes_per_s: float | None  # out of a host; None where the interconnect spans hosts
    link_bytes_per_s: float  # between host and each device, one way
    dispatch_s: float  # of one call of a program with a round trip to the device, whatever it does
    cores: float  # that step environments of a host: its own, or those of its environment workers
    env_steps_per_core_s: float  # of environments alone on one of those cores
    achieved: float  # share of the peaks that programs reach
    worker_cores: float = 0.0  # of each host of environment workers; 0 without
    wire_bytes_per_s: float = math.inf  # between a host and its environment workers, one way
    wire_s: float = 0.0  # of a round trip to them
    shape: tuple[int, ...] = (1,)  # of the whole torus, for the number of hops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """How fast a run will be."""

    update_s: float
    updates_per_s: float  # the learner's rate
    env_steps_per_s: float  # agent decisions, of the whole job
    frames_per_s: float  # emulator frames, of the whole job
    stages: Mapping[str, float]  # seconds of each stage in an update, where it is done, by the keys of `LIMITS`
    limit: str  # the key of `LIMITS` that decides
    of_peak: float  # arithmetic of networks as a share of what all devices could do
    learner_busy: float  # share of the time that learner devices learn
    actor_busy: float  # share of the time that actor devices act


def machine_of(slice_: Slice, assumptions: Assumptions, *, float32: bool) -> Hardware:
    """What the table says of a slice's hosts."""
    chip, host = slice_.chip, slice_.host
    cores, workers = 0.9 * host.vcpus if assumptions.vcpus is None else assumptions.vcpus, assumptions.env_workers
    return Hardware(
        flops=chip.flops_float32 if float32 else chip.flops,
        memory_bytes_per_s=chip.memory_bytes_per_s,
        memory_bytes=chip.memory_bytes,
        interconnect_bytes_per_s=chip.interconnect_bytes_per_s,
        network_bytes_per_s=host.network_bytes_per_s if chip.largest_slice is None else None,
        link_bytes_per_s=host.link_bytes_per_s,
        dispatch_s=assumptions.dispatch_s,
        cores=cores * (workers or 1),
        env_steps_per_core_s=assumptions.env_steps_per_vcpu_s,
        achieved=assumptions.achieved,
        worker_cores=cores if workers else 0.0,
        wire_bytes_per_s=host.network_bytes_per_s if workers else math.inf,
        wire_s=assumptions.wire_s if workers else 0.0,
        shape=slice_.shape,
    )


def predict(run: RunCosts, machine: Hardware, *, lag: int | None = None, enough_envs: bool = False) -> Prediction:
    """How fast a run will be with a policy lag, of its config unless `lag` gives another.

    Stages have constant times here, so a lag of 1 hides all that a longer one does: it is for times that vary
    (`podrl.performance.planning.simulation`). With `enough_envs` there are always environments to step.
    """
    stages = stage_seconds(run, machine, enough_envs=enough_envs)
    learn = learn_seconds(stages)
    env = max(stages["env"], stages["wire"])  # Messages of one pool cross while others step.
    wall_s = {"env": env, "act": act_seconds(stages), "transfer": stages["transfer"], "learn": learn}
    overlap = Overlap(several_pools=run.layout.pools_per_actor > 1, in_turn=is_in_turn(run, lag))
    found = compose(wall_s, overlap, turns_s=stages["turns"])
    work = run.update.product_flops
    if run.act is not None:
        work += run.act.product_flops * run.acting_calls * run.actors * run.hosts
    env_steps_per_s = run.config.env_steps_per_update / found.seconds
    return Prediction(
        update_s=found.seconds,
        updates_per_s=1 / found.seconds,
        env_steps_per_s=env_steps_per_s,
        frames_per_s=env_steps_per_s * run.frames_per_step,
        stages=stages,
        limit=max(_PARTS[found.limit], key=lambda name: stages[name]),
        of_peak=work / (found.seconds * machine.flops * run.devices * run.hosts),
        learner_busy=learn / found.seconds,
        actor_busy=max(stages["act_compute"], stages["act_memory"]) / found.seconds,
    )


def is_in_turn(run: RunCosts, lag: int | None = None) -> bool:
    """Whether no actor acts while an update runs; see `predict` for `lag`."""
    lag = max_lag(run.config) if lag is None else lag
    return lag == 0 or run.is_fused or run.shares_devices


def act_seconds(stages: Mapping[str, float]) -> float:
    """All acting calls of a device in an update."""
    return stages["act_link"] + max(stages["act_compute"], stages["act_memory"])


def learn_seconds(stages: Mapping[str, float]) -> float:
    """Learning in an update, its reductions included."""
    return stages["interconnect"] + max(stages["learn_compute"], stages["learn_memory"])


def stage_seconds(run: RunCosts, machine: Hardware, *, enough_envs: bool = False) -> dict[str, float]:
    """Seconds of each stage in an update, by the keys of `LIMITS`; arguments as of `predict`."""
    compute_s, memory_s = _roofline(run.update, machine)
    stages = dict.fromkeys(LIMITS, 0.0)
    stages |= {"learn_compute": compute_s, "learn_memory": memory_s, "interconnect": reduction_seconds(run, machine)}
    if run.act is None:
        return stages
    compute_s, memory_s = _roofline(run.act, machine)
    cores = machine.cores if enough_envs else min(machine.cores, run.envs_of_host)
    link_s = machine.dispatch_s + (run.upload_bytes + run.download_bytes) / machine.link_bytes_per_s
    all_share = run.actors == run.learners == run.devices  # Rollouts are learned from where they were made.
    moved = 0.0 if all_share else run.rollout_bytes / run.learners
    stages |= {
        "env": run.env_steps_of_host / (cores * machine.env_steps_per_core_s),
        "wire": wire_bytes(run) / machine.wire_bytes_per_s,
        "act_compute": run.acting_calls * compute_s,
        "act_memory": run.acting_calls * memory_s,
        "act_link": run.acting_calls * link_s,
        "transfer": moved / machine.interconnect_bytes_per_s,
    }
    if not enough_envs:
        turn_s = 1 / machine.env_steps_per_core_s + machine.wire_s + act_seconds(stages) / run.acting_calls
        stages["turns"] = run.config.actors.unroll_length * turn_s
    return stages


def wire_bytes(run: RunCosts) -> float:
    """Bytes of an update's timesteps that environment workers would send to a host."""
    return run.acting_calls * run.actors * run.upload_bytes


def reduction_seconds(run: RunCosts, machine: Hardware) -> float:
    """Seconds of an update's collectives: each in a ring over the devices that take part, and the hops around it."""
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


def _roofline(cost: Cost, machine: Hardware) -> tuple[float, float]:
    """Seconds of one execution by arithmetic, and by memory traffic."""
    return (
        cost.flops / (machine.flops * machine.achieved),
        cost.bytes_accessed / (machine.memory_bytes_per_s * machine.achieved),
    )
