"""Rules that name what limits a run, and which config key to change, from where the threads' time went.

The learner and the actors work at the same time, and the slower of the two never waits. So the side that waits much is
not the limit; the other is, and the work that it spends its time on says why. Two things blur this. On a CPU all
threads share the cores, so one may be slow only because another works. And a device that both acts and learns does one
after the other, while the wait counts as `act` or `learn`. The ledgers cannot show that, so the advice considers how
busy the cores are and says where parts compete.
"""

from typing import NamedTuple

from podrl.experience.schedule import lag_key, max_lag
from podrl.telemetry.situation import Situation

WAITS = 0.2  # A side that waits for this fraction of its time is held up by the other.
SIDE_WORK = 0.05  # Fraction of the learner's time from which side work is mentioned.
OTHERS = 0.1  # Fraction of the cores' time from which other processes are mentioned.
SHORT_CALL_S = 1e-3  # A shorter act call is mostly dispatch and copies: more environments hardly lengthen it.


class Advice(NamedTuple):
    """What limits the run, and remedies, the best first."""

    finding: str
    remedies: tuple[str, ...]

    def __str__(self) -> str:
        """Returns one line, with the two best remedies."""
        return f"{self.finding}: {'; or '.join(self.remedies[:2])}"


def advise(situation: Situation) -> Advice:
    """Returns what limits a run, and remedies."""
    if min(situation.learner_waits, situation.actors_wait) >= WAITS:
        return _both_wait(situation)
    if situation.learner_waits >= WAITS:
        return _actors_limit(situation)
    if situation.actors_wait >= WAITS:
        return _learner_limits(situation)
    return _nobody_waits(situation)


def _both_wait(situation: Situation) -> Advice:
    """Advises when both wait: they are told to take turns, or some rollouts or updates take much longer than others."""
    actors, lag, key = situation.config.actors, max_lag(situation.config), lag_key(situation.config)
    finding = f"learner waits {situation.learner_waits:.0%} for rollouts, actors {situation.actors_wait:.0%} for it"
    if lag == 0:
        return Advice(f"{finding}, in turn", (f"{key}=1 lets them overlap, at a policy lag of 1",))
    longer = f"longer actors.unroll_length (now {actors.unroll_length}) evens them out"
    deeper = f"larger {key} (now {lag}) lets more rollouts wait ready, at that policy lag"
    return Advice(f"{finding}, as work comes in bursts", (*_side_work(situation), longer, deeper))


def _actors_limit(situation: Situation) -> Advice:
    """Advises when the learner waits, by the work that takes the actors longest."""
    causes = {"env": _slow_env, "act": _slow_act, "transfer": _slow_transfer, "other": _slow_host}
    bucket = max(causes, key=lambda bucket: situation.share("actors", bucket))
    finding = (
        f"learner waits {situation.learner_waits:.0%} for rollouts, actors spend "
        f"{situation.share('actors', bucket):.0%} in {bucket}"
    )
    return Advice(finding + describe_cores(situation), causes[bucket](situation))


def _slow_env(situation: Situation) -> tuple[str, ...]:
    """Returns remedies for slow emulators: more cores, or other work while they step."""
    actors, layout, cores = situation.config.actors, situation.layout, situation.machine.cores
    remedies = []
    if actors.pools_per_thread == 1 and situation.share("actors", "act") >= WAITS:
        remedies.append("actors.pools_per_thread=2 acts for one pool while the other steps")
    if not situation.has_idle_cores:
        return (*remedies, "a host with more cores, as more threads would only share these")
    if situation.env_threads < min(layout.envs_per_pool, cores // layout.num_actors):
        remedies.append(f"actors.env_threads=0 steps on all cores (now {situation.env_threads} per pool)")
    threads = f"more actors.threads_per_device (now {actors.threads_per_device}), as cores are idle"
    return (*remedies, _more_envs(situation), threads)


def _slow_act(situation: Situation) -> tuple[str, ...]:
    """Returns remedies for slow acting: a call may be mostly overhead, or compute, or wait for a device that learns."""
    machine, network = situation.machine, situation.config.network
    if situation.act_call_s < SHORT_CALL_S:
        return (_more_envs(situation), *_larger_pools(situation))
    if situation.on_cpu:
        return (*smaller_network(situation), "an accelerator, or a host with more cores")
    remedies = []
    if machine.shares_devices and machine.devices > 1:
        remedies.append(_split_devices())
    elif machine.devices > 1:
        remedies.append(f"more topology.actor_devices_per_process (now {machine.actor_devices} of {machine.devices})")
    if network.compute_dtype == "float32":
        remedies.append("network.compute_dtype=bfloat16")
    return (*remedies, *_larger_pools(situation), *smaller_network(situation), "more devices")


def _slow_transfer(situation: Situation) -> tuple[str, ...]:
    """Returns remedies for slow transfer: closing and sending a rollout costs the same for any length."""
    longer = f"longer actors.unroll_length (now {situation.config.actors.unroll_length}) sends fewer rollouts"
    return (longer, *_larger_pools(situation))


def _slow_host(situation: Situation) -> tuple[str, ...]:
    """Returns remedies for slow Python between the calls, which runs once for each step of each pool."""
    return (_more_envs(situation), *_larger_pools(situation))


def _learner_limits(situation: Situation) -> Advice:
    """Advises when actors wait: for learning, or for other work of the learner's thread."""
    finding = (
        f"actors wait {situation.actors_wait:.0%} for the learner, which spends "
        f"{situation.share('learner', 'learn'):.0%} in learn"
    )
    return Advice(finding + describe_cores(situation), (*_side_work(situation), *_faster_updates(situation)))


def _faster_updates(situation: Situation) -> tuple[str, ...]:
    """Returns remedies that make an update shorter, or its batch cheaper."""
    if situation.on_cpu:
        longer = f"longer actors.unroll_length (now {situation.config.actors.unroll_length}) for larger updates"
        small = (longer,) if situation.has_idle_cores else ()
        return (*small, *smaller_network(situation), "an accelerator, or a host with more cores")
    machine, config = situation.machine, situation.config
    remedies = []
    if config.topology.micro_batches > 1:
        remedies.append(f"fewer topology.micro_batches (now {config.topology.micro_batches}), if memory allows")
    if config.network.compute_dtype == "float32":
        remedies.append("network.compute_dtype=bfloat16")
    if machine.learner_devices < machine.devices and machine.devices > 2:
        number = f"now {machine.learner_devices} of {machine.devices}"
        remedies.append(f"more topology.learner_devices_per_process ({number})")
    return (*remedies, *smaller_network(situation), "more devices")


def _nobody_waits(situation: Situation) -> Advice:
    """Advises when neither waits: both use a full resource, or they are balanced."""
    sides = f"learner learns {situation.share('learner', 'learn'):.0%}, neither waits much"
    consumer = max(("act", "env"), key=lambda bucket: situation.share("actors", bucket))
    remedies = _side_work(situation)
    if situation.on_cpu and not situation.has_idle_cores:
        if situation.share("learner", "learn") >= situation.share("actors", consumer):
            consumer = "learn"
        filling = f"acting, emulating and learning fill the cores, {consumer} the most"
        finding = f"{sides}; {filling}{describe_cores(situation)}"
        network = () if consumer == "env" else smaller_network(situation)
        return Advice(finding, (*remedies, *network, "a host with more cores"))
    if situation.machine.shares_devices and not situation.on_cpu:
        split = (_split_devices(),) if situation.machine.devices > 1 else ()
        finding = f"{sides}; acting and learning compete for the same device"
        return Advice(finding, (*remedies, *split, *_faster_updates(situation)))
    cheaper = _faster_updates(situation)[0] if situation.has_idle_cores else "a host with more cores"
    return Advice(
        f"balanced, {sides}{describe_cores(situation)}", (*remedies, cheaper, "more devices and cores, for both sides")
    )


def _side_work(situation: Situation) -> tuple[str, ...]:
    """Returns remedies for the learner thread's work beside learning, the largest first, if it takes long."""
    config = situation.config
    fewer_updates = f"longer actors.unroll_length (now {config.actors.unroll_length})"
    remedies = {
        "log": f"larger log.every_updates (now {config.log.every_updates})",
        "evaluate": f"larger evaluate.every_updates (now {config.evaluate.every_updates})",
        "checkpoint": f"larger checkpoint.every_updates (now {config.checkpoint.every_updates})",
        "publish": fewer_updates,
        "other": fewer_updates,
    }
    spent = sorted(((situation.share("learner", bucket), bucket) for bucket in remedies), reverse=True)
    return tuple(
        f"{remedies[bucket]}, as {bucket} takes it {share:.0%}" for share, bucket in spent if share >= SIDE_WORK
    )


def _more_envs(situation: Situation) -> str:
    """Suggests more environments in each call, for the same batch size."""
    actors = situation.config.actors
    return (
        f"more actors.num_envs (now {actors.num_envs}), with shorter actors.unroll_length (now {actors.unroll_length}) "
        "for the same batch"
    )


def _larger_pools(situation: Situation) -> tuple[str, ...]:
    """Suggests fewer pools of the same environments, but two at least, unless emulators are too fast to need hiding."""
    pools = situation.config.actors.pools_per_thread
    quick = situation.share("actors", "env") < 0.5 * situation.share("actors", "act")
    least = 1 if quick else 2
    return (f"fewer actors.pools_per_thread (now {pools}), each of more environments",) if pools > least else ()


def smaller_network(situation: Situation) -> tuple[str, ...]:
    """Suggests a cheaper network; it may learn less."""
    network = situation.config.network
    if network.encoders == {"mlp"}:
        return ("smaller network.hidden_sizes",)
    if network.width > 1:
        return (f"smaller network.width (now {network.width})",)
    key = "network.encoder=nature" if network.encoder == "resnet" else "nature instead of resnet in network.parts"
    return (f"{key}, which is cheaper",) if "resnet" in network.encoders else ()


def _split_devices() -> str:
    return (
        "topology.actor_devices_per_process=0 and topology.learner_devices_per_process=0 keep acting and learning apart"
    )


def describe_cores(situation: Situation) -> str:
    """Describes how busy the cores are."""
    others = f", {situation.others_busy:.0%} with other processes" if situation.others_busy >= OTHERS else ""
    return f" ({situation.machine.cores} cores, {situation.cores_busy:.0%} busy{others})"
