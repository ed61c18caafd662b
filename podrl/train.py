"""From a command line to a finished run: config, agent, environments, topology, run loop, exit code.

Exit codes: 0 finished; 1 failed; 2 a mistake in the command or the config (nothing was started); 75 stopped by SIGTERM
and 130 by Ctrl-C, after the update in flight and with everything saved; 124 something stood still or was waited for too
long. After 75, 124 and 130 the same command with `--workdir` goes on.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import os
import threading
import time
from typing import Any

from absl import logging
from etils import epath
import ml_collections

from podrl import sebulba
from podrl.advice import Adviser
from podrl.agents import load_agent
from podrl.allocator import keep_freed_memory
from podrl.checkpoint import Checkpointer, CheckpointError
from podrl.commandline import CommandLine
from podrl.comparison import changes
from podrl.compilation_cache import use_compilation_cache
from podrl.config import Config, ConfigError, check, from_config_dict, to_dict
from podrl.determinism import jax_plugins, require_determinism
from podrl.display import Display, configure_logging
from podrl.envs import load_source
from podrl.evaluate import Episodes
from podrl.evaluator import ROW_KEY, make_evaluator, make_row
from podrl.interruption import interruptible, leave
from podrl.journal import Row
from podrl.layout import make_layout, resolve_micro_batches
from podrl.learner import Learner
from podrl.ledger import Ledger
from podrl.mesh import make_topology
from podrl.metrics import MetricsWriter, updates_with
from podrl.networks import make_network
from podrl.panel import Summary
from podrl.profiler import Profiler
from podrl.records import read_manifests
from podrl.schedule import is_exact, resumable
from podrl.sharding import describe_split, split_network
from podrl.types import Counters, EnvSpec, LearnerState, Snapshot
from podrl.watchdog import STALLED, Watchdog, Watched
from podrl.workdir import holds_run, make_manifest, make_workdir, shorten, sole_user, write_facts


def main(command: CommandLine) -> int:
    """Runs what the command line asks for and returns the exit code.

    Raises:
        ConfigError: on a mistake of the user's, before anything was started.
    """
    configure_logging(process_index=0)
    keep_freed_memory()
    use_compilation_cache()
    config = resolve(command.config)
    if config.determinism == "exact":
        require_determinism(os.environ, jax_plugins())
    try:
        with interruptible() as interruption:
            outcome = train(
                config,
                workdir=command.workdir,
                argv=command.argv,
                profile=command.profile,
                accept_changes=command.accept_changes,
                should_stop=interruption.is_set,
            )
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 (the last line of defence: one clear line, the details below it)
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        logging.error("The run failed: %s", str(error) or type(error).__name__)
        logging.error("Details:", exc_info=error.__cause__ or error)
        return _exit_code(STALLED if isinstance(error.__cause__ or error, TimeoutError) else 1, error)
    return _exit_code(0 if outcome.finished else interruption.exit_code or 0)


def resolve(config: ml_collections.ConfigDict) -> Config:
    """A config file's ConfigDict as frozen dataclasses, the agent's section by the agent's own.

    Raises:
        ConfigError: on an unknown, missing or wrongly typed key, or a value out of range.
    """
    name = config.get("agent", {}).get("name")
    check(isinstance(name, str), f"agent.name={name!r} must be the name of an agent, such as 'impala'.")
    return from_config_dict(config, load_agent(name).AgentConfig)


def train(
    config: Config,
    *,
    workdir: str | None = None,
    argv: tuple[str, ...] = (),
    profile: bool = False,
    accept_changes: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> sebulba.Outcome:
    """Trains one agent, with progress on the terminal and results in `workdir`; goes on with the run that is there.

    Args:
        config: the whole run.
        workdir: folder of the run; by default `runs/<config>-<time>`.
        argv: the command, for the manifest.
        profile: whether to trace a few updates, into `profile/` of that folder.
        accept_changes: whether the run in that folder may have been of another config.
        should_stop: asked before every update, and in long waits.

    Raises:
        ConfigError: if the parts do not fit together.
        ActorError: if an actor thread failed.
        EvaluationError: if an evaluation did.
        TimeoutError: if one thread waited too long for another.
        CheckpointError: if a checkpoint could not be saved.
    """
    start_s = time.perf_counter()
    source = load_source(config.env.source)
    spec = source.make_spec(config.env)
    topology = make_topology(config.topology)
    asked, config = config, resolve_micro_batches(config, topology)
    make_layout(config, topology)
    network, rules = split_network(make_network(config.network, spec), config, topology.learner)
    agent = load_agent(config.agent.name).make_agent(config.agent, network, config.num_updates)
    shape = Learner(agent, topology.learner, rules).state_shape
    folder = make_workdir(asked, workdir, accept_changes=accept_changes)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sole_user(folder))
        display = stack.enter_context(Display(config.name, config.env.id, config.total_env_steps, folder))
        watchdog = stack.enter_context(Watchdog(config.watchdog_s, on_stall=display.close))
        profiler = stack.enter_context(Profiler(folder / "profile", last_update=config.num_updates, enabled=profile))
        ledger = Ledger("learner", annotate=profiler.annotate)
        watchdog.watch(Watched(ledger=ledger, doing=lambda: "learner gets ready", is_alive=lambda: True))
        checkpointer = stack.enter_context(make_checkpointer(config, folder))
        adviser = Adviser(config, topology)
        logging.info("%s; results go to %s", topology.describe(), folder)
        if rules:
            logging.info("Learner: %s.", describe_split(shape.params))
        start, resumed = None, None
        manifest = make_manifest(config, topology, argv)
        if holds_run(folder):
            with ledger.spend("checkpoint"):
                start = find_start(config, checkpointer, shape)
            resumed = start.counters if start else Counters()
            warn_of_changes(config, read_manifests(folder), manifest)
        write_facts(folder, asked, manifest)
        writer = stack.enter_context(MetricsWriter(folder, tensorboard=config.log.tensorboard, resumed=resumed))

        def write_row(row: Row) -> None:
            writer.write(row, row["env_steps"])
            display.update(row)
            if not profile and (advice := adviser.add(row)):  # Writing the profile is no limit of the run.
                logging.info("What limits the speed: %s.", advice)

        def before_update(update: int) -> None:
            checkpointer.check_save()
            profiler.before_update(update)

        def write_evaluation(counters: Counters, episodes: Episodes) -> None:
            row = make_row(config.env.id, counters, episodes, time.perf_counter() - start_s)
            with ledger.spend("log"):
                writer.write(row, row["env_steps"])
            logging.info(
                "Evaluated update %s: return %.2f (mean of %d episodes, median %.2f)",
                f"{row['learner_steps']:,}",
                row["evaluate/return"],
                row["evaluate/episodes"],
                row["evaluate/return_median"],
            )

        evaluator = stack.enter_context(
            make_evaluator(
                config,
                agent=agent,
                spec=spec,
                source=source,
                device=topology.local_actor_devices[-1],
                done=updates_with(folder, ROW_KEY) if resumed else set(),
                write=write_evaluation,
            )
        )
        watchdog.watch(Watched(ledger=evaluator.ledger, doing=evaluator.doing, is_alive=evaluator.is_alive))
        outcome = sebulba.run(
            config,
            agent=agent,
            spec=spec,
            source=source,
            topology=topology,
            rules=rules,
            start=start,
            show_phase=display.phase,
            write_row=write_row,
            save=functools.partial(checkpointer.save, config=to_dict(asked), manifest=manifest),
            should_stop=should_stop,
            before_update=before_update,
            evaluator=evaluator,
            annotate=profiler.annotate,
            ledger=ledger,
            watchdog=watchdog,
        )
        profiler.close()
        with ledger.spend("checkpoint"):
            checkpointer.close()
        if not outcome.finished:
            logging.info("To go on: the same command with --workdir=%s", folder)
        display.summary(summarize(config, spec, outcome, wall_s=time.perf_counter() - start_s))
    return outcome


def summarize(config: Config, spec: EnvSpec, outcome: sebulba.Outcome, *, wall_s: float) -> Summary:
    """What the display shows in the end."""
    return Summary(
        outcome="finished" if outcome.finished else "interrupted",
        counters=outcome.counters,
        wall_s=wall_s,
        compile_s=outcome.compile_s,
        env_steps_per_second=outcome.env_steps_per_second,
        frames_per_second=outcome.env_steps_per_second * spec.frames_per_step,
        episode_return=outcome.episode_return,
        episodes=outcome.episodes,
        tensorboard=config.log.tensorboard,
    )


def make_checkpointer(config: Config, workdir: epath.Path) -> Checkpointer:
    """Opens the checkpoints of a run."""
    checkpoint = config.checkpoint
    return Checkpointer(
        workdir,
        keep=checkpoint.keep,
        every=checkpoint.every_updates,
        keep_every=checkpoint.keep_every,
        keep_best=checkpoint.keep_best,
    )


def find_start(config: Config, checkpointer: Checkpointer, shape: LearnerState) -> Snapshot | None:
    """Where the run in a folder goes on; None if it has to begin anew. Later checkpoints are deleted.

    Raises:
        ConfigError: if a checkpoint is of another network or algorithm.
        RuntimeError: if there are checkpoints, and all are damaged.
    """
    candidates = resumable(config, checkpointer.steps())
    start = checkpointer.restore_first(shape, candidates)
    if start is None:
        if candidates:
            raise RuntimeError("All checkpoints of this run are damaged; remove them to start anew.")
        logging.info("The run in this folder has no checkpoint yet: it starts anew.")
        return None
    done = start.counters.learner_steps
    repeated = max(checkpointer.steps()) - done
    checkpointer.forget_after(done)
    logging.info(
        "Goes on with the run in this folder, after update %d%s.",
        done,
        f"; the {repeated} after it that were done before it was stopped are made again" if repeated else "",
    )
    if config.determinism == "exact" and not is_exact(config, done):
        logging.warning(
            "Update %d is between two boundaries (checkpoint.every_updates=%d): what follows is not bit for bit what "
            "an uninterrupted run would do.",
            done,
            config.checkpoint.every_updates,
        )
    return start


def warn_of_changes(config: Config, before: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> None:
    """Says in what a run goes on otherwise than it was started last, if that may change its numbers."""
    if config.determinism == "exact" and before and (found := changes(before[-1], now)):
        logging.warning("What follows may not be bit for bit what it would have been: %s.", shorten(found))


def _exit_code(code: int, error: Exception | None = None) -> int:
    """`code`; leaves with it at once if something is stuck, which would hold up an orderly exit.

    That is a thread, a device, or the writes of a failed save: Orbax abandons these, and each would print an error
    of its own while Python shuts down.
    """
    stuck = code == STALLED or any(thread.name.startswith(("actor ", "evaluator")) for thread in threading.enumerate())
    if stuck or isinstance(error, CheckpointError):
        leave(code)
    return code
