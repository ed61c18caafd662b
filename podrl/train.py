"""From a command line to a finished run: config, agent, environments, topology, run loop, exit code.

Exit codes: 0 finished; 1 failed; 2 a mistake in the command or the config (nothing was started); 130 interrupted by
Ctrl-C, after the update in flight and with everything saved.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType

from absl import logging
import ml_collections

from podrl import sebulba
from podrl.advice import Adviser
from podrl.agents import load_agent
from podrl.allocator import keep_freed_memory
from podrl.checkpoint import Checkpointer
from podrl.commandline import CommandLine
from podrl.compilation_cache import use_compilation_cache
from podrl.config import Config, ConfigError, check, from_config_dict
from podrl.display import Display, configure_logging
from podrl.envs import load_source
from podrl.journal import Row
from podrl.layout import make_layout, resolve_micro_batches
from podrl.mesh import make_sharding_rules, make_topology
from podrl.metrics import MetricsWriter
from podrl.networks import make_network
from podrl.panel import Summary
from podrl.profiler import Profiler
from podrl.workdir import make_workdir, write_facts

INTERRUPTED = 130


def main(command: CommandLine) -> int:
    """Runs what the command line asks for and returns the exit code.

    Raises:
        ConfigError: on a mistake of the user's, before anything was started.
    """
    configure_logging(process_index=0)
    keep_freed_memory()
    use_compilation_cache()
    config = resolve(command.config)
    try:
        outcome = train(config, workdir=command.workdir, argv=command.argv, profile=command.profile)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 (the last line of defence: one clear line, the details below it)
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        logging.error("The run failed: %s", str(error) or type(error).__name__)
        logging.error("Details:", exc_info=error.__cause__ or error)
        return _failed(error)
    return 0 if outcome.finished else INTERRUPTED


def resolve(config: ml_collections.ConfigDict) -> Config:
    """A config file's ConfigDict as frozen dataclasses, the agent's section by the agent's own.

    Raises:
        ConfigError: on an unknown, missing or wrongly typed key, or a value out of range.
    """
    name = config.get("agent", {}).get("name")
    check(isinstance(name, str), f"agent.name={name!r} must be the name of an agent, such as 'impala'.")
    return from_config_dict(config, load_agent(name).AgentConfig)


def train(
    config: Config, *, workdir: str | None = None, argv: tuple[str, ...] = (), profile: bool = False
) -> sebulba.Outcome:
    """Trains one agent, with progress on the terminal and results in `workdir`.

    Args:
        config: the whole run.
        workdir: folder of the run; by default `runs/<config>-<time>`.
        argv: the command, for the manifest.
        profile: whether to trace a few updates, into `profile/` of that folder.

    Raises:
        ConfigError: if the parts do not fit together.
        ActorError: if an actor thread failed.
        TimeoutError: if one thread waited too long for another.
    """
    start = time.perf_counter()
    source = load_source(config.env.source)
    spec = source.make_spec(config.env)
    topology = make_topology(config.topology)
    rules = make_sharding_rules(config.topology)
    config = resolve_micro_batches(config, topology)
    make_layout(config, topology)
    network = make_network(config.network, spec)
    agent = load_agent(config.agent.name).make_agent(config.agent, network, config.num_updates)
    folder = make_workdir(config, workdir)
    write_facts(folder, config, topology, argv)
    with contextlib.ExitStack() as stack:
        display = stack.enter_context(Display(config.name, config.env.id, config.total_env_steps, folder))
        writer = stack.enter_context(MetricsWriter(folder, tensorboard=config.log.tensorboard))
        checkpointer = stack.enter_context(Checkpointer(folder, keep=config.checkpoint.keep))
        profiler = stack.enter_context(Profiler(folder / "profile", last_update=config.num_updates, enabled=profile))
        stop = stack.enter_context(interruptible())
        adviser = Adviser(config, topology)
        logging.info("%s; results go to %s", topology.describe(), folder)

        def write_row(row: Row) -> None:
            writer.write(row, row["env_steps"])
            display.update(row)
            if not profile and (advice := adviser.add(row)):  # Writing the profile is no limit of the run.
                logging.info("What limits the speed: %s.", advice)

        outcome = sebulba.run(
            config,
            agent=agent,
            spec=spec,
            source=source,
            topology=topology,
            rules=rules,
            show_phase=display.phase,
            write_row=write_row,
            save=checkpointer.save,
            should_stop=stop.is_set,
            before_update=profiler.before_update,
            annotate=profiler.annotate,
        )
        profiler.close()
        checkpointer.close()
        display.summary(
            Summary(
                outcome="finished" if outcome.finished else "interrupted",
                counters=outcome.counters,
                wall_s=time.perf_counter() - start,
                compile_s=outcome.compile_s,
                env_steps_per_second=outcome.env_steps_per_second,
                frames_per_second=outcome.env_steps_per_second * spec.frames_per_step,
                episode_return=outcome.episode_return,
                episodes=outcome.episodes,
                tensorboard=config.log.tensorboard,
            )
        )
    return outcome


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into an event that ends the run after the update in flight; the second ends it at once.

    A second within a second counts as the first: `timeout` and some schedulers signal a process and then its group.
    """
    stop = threading.Event()
    first_s = 0.0

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal first_s
        now_s = time.monotonic()
        if stop.is_set() and now_s - first_s > 1.0:
            raise KeyboardInterrupt
        if stop.is_set():
            return
        first_s = now_s
        stop.set()
        logging.info("Stopping after this update; Ctrl-C again to stop at once.")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _failed(error: Exception) -> int:
    """Exit code 1; at once if a thread or a device is stuck, which would hold up an orderly exit."""
    stuck = any(thread.name.startswith("actor ") for thread in threading.enumerate())
    if stuck or isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    return 1
