"""The planner's model on this machine, with its own yardsticks, and how far it is from what the benchmark measures.

On a CPU everything shares the cores: the stages' core-seconds add up (`podrl.performance.planning.yardsticks`).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math

from absl import logging
import jax

from podrl.config.config import Config, check
from podrl.performance.benchmark.stages import make_parts, time_end_to_end
from podrl.performance.planning.child import Child
from podrl.performance.planning.compilation import RunCosts, count
from podrl.performance.planning.environments import env_steps_per_core, graph_env_steps_per_s
from podrl.performance.planning.products import time_products
from podrl.performance.planning.yardsticks import Yardsticks, core_seconds, make_yardsticks


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalPrediction:
    """How fast a run will be on this machine.

    Attributes:
        env_steps_per_s: of the whole job.
        core_s: core-seconds of an env step: of `env`, `act`, `learn`, `calls` and `reduce`.
    """

    env_steps_per_s: float
    core_s: Mapping[str, float]


def predict_local(config: Config, yardsticks: Yardsticks, *, processes: int = 1, devices: int = 1) -> LocalPrediction:
    """How fast a run will be here.

    Args:
        config: of the run.
        yardsticks: of this machine, and of so many processes.
        processes: of the job, all on this machine.
        devices: virtual CPU devices of each; JAX must have as many.

    Raises:
        ConfigError: if the config does not fit them, or its environments cannot be opened here.
    """
    run = count(config, hosts=processes, devices=devices, platform="cpu")
    rate = graph_env_steps_per_s(config) if run.is_fused else env_steps_per_core(config)
    costs = core_seconds(run, yardsticks, rate, time_products(run))
    by_cores = yardsticks.cores / sum(costs.values())
    return LocalPrediction(env_steps_per_s=min(by_cores, _by_threads(run, costs)), core_s=costs)


class Predictor:
    """Env steps per second of configs on this machine, whose yardsticks are asked for with the first.

    A process of its own has JAX's threads, so that whoever asks can still fork.
    """

    def __init__(
        self,
        max_devices: int,
        processes: Sequence[int] = (1,),
        keep: Callable[[Callable[[], Yardsticks]], Yardsticks] = lambda measure: measure(),
    ):
        """Starts nothing yet.

        Args:
            max_devices: virtual CPU devices of the largest process that will be asked about.
            processes: numbers of them that will be asked about.
            keep: has the yardsticks, or calls what measures them.
        """
        self._processes, self._keep = processes, keep
        self._yardsticks: Yardsticks | None = None
        self._child = Child(devices=max_devices)

    def __call__(self, config: Config, processes: int, devices: int) -> float:
        """Of a job of so many processes with so many virtual CPU devices each.

        Raises:
            ConfigError: if the config does not fit them.
            RuntimeError: if there is no answer in time.
        """
        if self._yardsticks is None:
            self._yardsticks = self._keep(self._measure)
        return self._child.ask(_predict, config, self._yardsticks, processes, devices)

    def _measure(self) -> Yardsticks:
        logging.info(
            "Measures this machine for the prediction, which takes 20 s, more for several processes; --no_prediction "
            "leaves it out."
        )
        return self._child.ask(_measure_yardsticks, self._processes)


def _measure_yardsticks(processes: Sequence[int]) -> Yardsticks:
    return make_yardsticks(processes)()


def _predict(config: Config, yardsticks: Yardsticks, processes: int, devices: int) -> float:
    return predict_local(config, yardsticks, processes=processes, devices=devices).env_steps_per_s


def _by_threads(run: RunCosts, costs: Mapping[str, float]) -> float:
    """Env steps per second at which the actor threads have no more time, each on one core at a time."""
    if run.is_fused:
        return math.inf
    waits = costs["env"] if run.layout.pools_per_actor == 1 else 0.0
    return run.layout.num_actors * run.hosts / (costs["act"] + costs["calls"] + waits)


def check_prediction(
    config: Config,
    processes: int,
    devices: int,
    run_job: Callable[[float], float],
    *,
    seconds: float = 4.0,
    repeats: int = 3,
) -> tuple[Yardsticks, LocalPrediction, dict[str, float]]:
    """Predicts a run and runs it, in turns: machines change with their neighbours.

    Args:
        config: of the run.
        processes: of the job.
        devices: virtual CPU devices of each.
        run_job: runs it for so many seconds, where it is more than one process with one device; returns its env steps
            per second.
        seconds: for each repeat of the run.
        repeats: of all measurements.

    Returns:
        Yardsticks and prediction of the repeat whose error is the median, and `measured` env steps per second with
        `error`: by how much the prediction is off, as a share, and `error_min` and `error_max` of the repeats.
    """
    measure = make_yardsticks([processes])
    if processes == devices == 1:
        run_job = _make_run(config)
    rounds = []
    for _ in range(repeats):
        yardsticks = measure()
        prediction = predict_local(config, yardsticks, processes=processes, devices=devices)
        measured = run_job(seconds)
        rounds.append((prediction.env_steps_per_s / measured - 1, measured, yardsticks, prediction))
    rounds.sort(key=lambda each: each[0])
    error, measured, yardsticks, prediction = rounds[len(rounds) // 2]
    row = {"measured": measured, "error": error, "error_min": rounds[0][0], "error_max": rounds[-1][0]}
    return yardsticks, prediction, row


def _make_run(config: Config) -> Callable[[float], float]:
    """Runs it in this process for so many seconds; returns env steps per second."""
    parts = make_parts(config, jax.devices()[:1])
    return lambda seconds: time_end_to_end(parts, seconds).env_steps_per_second


def parse_local(name: str) -> tuple[int, int]:
    """Processes, and devices of each, of `this` or `this:2x4`.

    Raises:
        ConfigError: if it is neither.
    """
    _, _, shape = name.partition(":")
    axes: Sequence[str] = shape.split("x") if shape else ("1", "1")
    check(
        len(axes) == 2 and all(axis.isdecimal() and axis.isascii() and int(axis) > 0 for axis in axes),
        f"--topology {name!r} must be `this`, or processes x devices of each, as in this:2x1.",
    )
    processes, devices = map(int, axes)
    return processes, devices
