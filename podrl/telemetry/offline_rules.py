"""Rules that name what limits a run from a data set, and which config key to change.

The learner waits for samples, or it does not: then its updates are the limit, or what its thread does beside them.
"""

from podrl.telemetry.bottleneck_rules import SIDE_WORK, WAITS, Advice, describe_cores, smaller_network
from podrl.telemetry.situation import Situation


def advise_offline(situation: Situation) -> Advice:
    """Returns what limits a run from a data set, and remedies."""
    waits = situation.share("learner", "wait_data")
    if waits >= WAITS:
        return _reader_limits(situation, waits)
    learns = f"learner learns {situation.share('learner', 'learn'):.0%} of its time, and waits {waits:.0%} for data"
    remedies = (*_side_work(situation), *_faster_updates(situation))
    return Advice(learns + describe_cores(situation), remedies)


def _reader_limits(situation: Situation, waits: float) -> Advice:
    """Advises when the learner waits, by the work that takes the thread which brings samples longest."""
    section = situation.config.data
    on_devices = "data.memory=device draws them in the update itself, if the rows fit the devices"
    causes = {
        "read": (
            f"larger data.window_updates (now {section.window_updates}) or smaller data.window_episodes (now "
            f"{section.window_episodes}) reads less",
            f"data.window=0 (now {section.window}) keeps all rows in memory, if they fit",
        ),
        "gather": (on_devices, f"smaller data.batch (now {section.batch})"),
        "transfer": (on_devices, f"smaller data.batch (now {section.batch})"),
    }
    bucket = max(causes, key=lambda bucket: situation.share("data", bucket))
    share, idle = situation.share("data", bucket), situation.share("data", "wait_learner")
    finding = f"waits {waits:.0%} for data: the data reader spends {share:.0%} in {bucket}"
    bursts = (f"larger data.prefetch (now {section.prefetch}), as reads come in bursts",) if idle >= WAITS else ()
    return Advice(finding + describe_cores(situation), (*bursts, *causes[bucket]))


def _side_work(situation: Situation) -> tuple[str, ...]:
    """Returns remedies for the learner thread's work beside learning, the largest first, if it takes long."""
    config = situation.config
    remedies = {
        "log": f"larger log.every_updates (now {config.log.every_updates})",
        "evaluate": f"larger evaluate.every_updates (now {config.evaluate.every_updates})",
        "checkpoint": f"larger checkpoint.every_updates (now {config.checkpoint.every_updates})",
        "other": f"more data.learner_steps (now {config.data.learner_steps}) for fewer, longer updates",
    }
    spent = sorted(((situation.share("learner", bucket), bucket) for bucket in remedies), reverse=True)
    return tuple(
        f"{remedies[bucket]}, as {bucket} takes it {share:.0%}" for share, bucket in spent if share >= SIDE_WORK
    )


def _faster_updates(situation: Situation) -> tuple[str, ...]:
    """Returns remedies that make learner steps cheaper."""
    steps = f"more data.learner_steps (now {situation.config.data.learner_steps}), which an update makes in one call"
    few = (steps,) if situation.config.data.learner_steps < 10 else ()
    if situation.on_cpu:
        return (*few, *smaller_network(situation), "an accelerator, or a host with more cores")
    narrow = situation.config.network.compute_dtype == "float32"
    return (*few, *(("network.compute_dtype=bfloat16",) if narrow else ()), *smaller_network(situation), "more devices")
