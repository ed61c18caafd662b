"""Configuration: the sections and keys of a run as frozen dataclasses that check their own values.

`podrl.config.config_dict` makes them from a config file and the command line; they never change afterwards.
Hyper-parameters are *global*: they count environments, steps and batches of the whole job, so that they mean the same
on every machine. docs/config.md lists every key with the values that it takes.
"""

import dataclasses
from typing import Any

from podrl.config.data import DataConfig
from podrl.config.paths import absolute
from podrl.config.progress import CheckpointConfig, EvaluateConfig, LogConfig
from podrl.config.ranges import LONGEST_S, SIZE, check_values, choice, number, text
from podrl.config.record import RecordConfig
from podrl.config.remote import RemoteConfig
from podrl.config.replay import ReplayConfig
from podrl.config.rewards import RewardsConfig
from podrl.config.sections import ENV_SETTINGS, ActorsConfig, EnvConfig, NetworkConfig, check_not_a_setting
from podrl.config.topology import TopologyConfig
from podrl.mistakes import MISTAKE, ConfigError, check, check_one_of, did_you_mean, shown

__all__ = [
    "ENV_SETTINGS",
    "MISTAKE",
    "ActorsConfig",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "EnvConfig",
    "EvaluateConfig",
    "LogConfig",
    "NetworkConfig",
    "ReplayConfig",
    "RewardsConfig",
    "TopologyConfig",
    "check",
    "check_counts",
    "check_not_a_setting",
    "check_one_of",
    "did_you_mean",
    "shown",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The config of a whole run.

    Attributes:
        name: the run's name, in its folder and on the screen.
        seed: the run's seed; everything random follows from it.
        total_env_steps: agent decisions to learn from; not used with `data.path`.
        total_updates: updates of a run that learns from a data set (`data.path`); 0 in any other run.
        smoke: whether to shrink the run so that it ends in seconds.
        determinism: `exact`: the same config, seed, topology and software give the same parameters, bit for bit,
            whatever the timing of threads, and a stopped run resumes bit for bit. `free`: actors take the newest
            parameters that are ready, at most `actors.max_lag` behind, environments are never opened anew, and GPUs may
            use operations that differ from run to run.
        on_nonfinite: what to do about an update whose loss or gradient is NaN or infinite: `stop` the run, or `skip`
            the update, which leaves the learner's state as it was and counts in `grad/skipped` of the next row.
        watchdog_s: seconds without progress in any thread, compilation not counted, before the run ends with a report
            of which thread waits for which; longer than `actors.timeout_s`, whose errors say more.
        agent: an instance of `AgentConfig` from the agent's module.
        env, actors, remote, replay, rewards, data, network, topology, checkpoint, evaluate, log, record: the sections.
    """

    name: str = text(100, "run", refused="/\\*?[]")
    seed: int = number(0, SIZE, 1, open=True)
    total_env_steps: int = number(0, 1e15, 0)
    total_updates: int = number(0, SIZE, 0, open=True)
    smoke: bool = False
    determinism: str = choice(("exact", "free"), "exact")
    on_nonfinite: str = choice(("skip", "stop"), "stop")
    watchdog_s: float = number(0.001, LONGEST_S, 300.0)
    env: EnvConfig
    actors: ActorsConfig
    remote: RemoteConfig
    agent: Any
    replay: ReplayConfig
    rewards: RewardsConfig
    data: DataConfig
    network: NetworkConfig
    topology: TopologyConfig
    checkpoint: CheckpointConfig
    evaluate: EvaluateConfig
    log: LogConfig
    record: RecordConfig

    def __post_init__(self) -> None:
        """Checks the values and what they mean for one another: lag, replay, data, seeds, the watchdog's patience."""
        check_values(self, "")
        self.topology.check_seed(self.seed)
        self.replay.check_agent(self.agent.name, self.agent.update_shape)
        self.data.check_run(self)
        learns_rewards = "discount" in {field.name for field in dataclasses.fields(self.agent)}
        check(
            learns_rewards or not self.network.normalize_rewards,
            f"network.normalize_rewards=True with agent.name={shown(self.agent.name)}, which learns from no rewards. "
            "Leave it at False.",
        )
        check(
            self.watchdog_s > self.actors.timeout_s,
            f"watchdog_s={self.watchdog_s:g} must be longer than actors.timeout_s={self.actors.timeout_s:g} (seconds).",
        )
        self.remote.check_run(self.topology.placement, self.actors.timeout_s, self.watchdog_s)
        self.rewards.check_run(self)
        self.record.check_run(self.topology.placement, is_offline=self.is_offline)
        _check_lag(self)

    def of_each_seed(self) -> list["Config"]:
        """The configs of runs of one seed each, in their order."""
        alone = dataclasses.replace(self.topology, seeds=1)
        seeds = range(self.seed, self.seed + self.topology.seeds)
        return [dataclasses.replace(self, seed=seed, topology=alone) for seed in seeds]

    def with_absolute_data(self) -> "Config":
        """The same with the absolute path of its data set, so that it means the same in every working folder."""
        path = absolute(self.data.path) if self.data.path else ""
        return dataclasses.replace(self, data=dataclasses.replace(self.data, path=path))

    @property
    def is_offline(self) -> bool:
        """Whether the run learns from a data set alone: nothing acts in it except evaluations."""
        return bool(self.data.path) or self.agent.update_shape.needs_data

    def check_makes_experience(self, who: str) -> None:
        """Raises `ConfigError` if the run learns from a data set alone; `who` measures or predicts others only."""
        check(
            not self.is_offline,
            f"{who} is for runs that make experience of their own, and this one learns from a data set (data.path). "
            "Time a short run instead: its rows have time/learner/... and data/samples_per_second.",
        )

    @property
    def env_steps_per_update(self) -> int:
        """Agent decisions that one update consumes, over the whole job; 0 where all are recorded."""
        return 0 if self.is_offline else self.actors.num_envs * self.actors.unroll_length

    @property
    def learner_steps_per_update(self) -> int:
        """Calls of `Agent.learn` in one update; with replay once its ring is full, or has `replay.min_steps`.

        Raises:
            ConfigError: If `replay.ratio` gives no whole number of them.
        """
        if self.is_offline:
            return self.data.learner_steps
        sequences = self.agent.update_shape.sequences
        if sequences is None:
            return self.replay.uses
        return self.replay.learner_steps(self.env_steps_per_update, sequences.length)

    @property
    def optimizer_steps_per_update(self) -> int:
        """Optimizer steps of one update; with replay as for `learner_steps_per_update`."""
        return int(self.agent.update_shape.optimizer_steps) * self.learner_steps_per_update

    @property
    def learned_shape(self) -> tuple[int, int]:
        """Rows, and environments or sequences of the whole job, of the batch of one call of `Agent.learn`."""
        if self.is_offline:
            return self.agent.update_shape.recorded.rows, self.data.batch
        sequences = self.agent.update_shape.sequences
        fresh = (self.actors.unroll_length, self.actors.num_envs)
        return fresh if sequences is None else (sequences.rows, self.replay.batch)

    @property
    def patience_s(self) -> float:
        """Seconds that the learner may be waited for: it may itself wait for an evaluation, or save a large replay."""
        evaluates, saves = self.evaluate.every_updates > 0, self.checkpoint.every_updates > 0
        has_replay = not self.is_offline and (self.replay.learns_again or bool(self.agent.update_shape.sequences))
        keeps = self.checkpoint.replay and has_replay
        return self.actors.timeout_s + evaluates * self.evaluate.timeout_s + (saves and keeps) * self.watchdog_s

    @property
    def num_updates(self) -> int:
        """Updates until `total_env_steps` are consumed, rounded up, for updates of constant size."""
        return self.total_updates if self.is_offline else -(-self.total_env_steps // self.env_steps_per_update)


def _check_lag(config: Config) -> None:
    """Raises `ConfigError` if a lag is asked for that the run would not have; the default may mean none was."""
    lag, every, default = config.actors.lag, config.checkpoint.every_updates, ActorsConfig().lag
    if config.is_offline:
        return
    if config.topology.placement == "anakin":
        check(
            lag <= default,
            f"actors.lag={lag} has no meaning with topology.placement='anakin', where the newest parameters always act "
            "(lag 0). Leave it out, or use topology.placement=sebulba.",
        )
    elif config.determinism == "free":
        check(
            lag == default,
            f"actors.lag={lag} is exact, and with determinism='free' the lag is only bounded, by actors.max_lag="
            f"{config.actors.max_lag}. Set that instead of actors.lag, or use determinism=exact.",
        )
    else:
        check(
            lag <= default or not every or lag < every,
            f"actors.lag={lag} would never be reached: the lag grows from 0 after every boundary, and there is one "
            f"every checkpoint.every_updates={every} updates. Use more than {lag} there, or 0 for no boundaries.",
        )


def check_counts(config: Config, num_updates: int) -> None:
    """Raises `ConfigError` if a run makes more updates than devices can count in 32 bits."""
    most = 2**31 - 1
    if config.is_offline:  # `total_updates` is below that.
        return
    check(
        num_updates <= most,
        f"total_env_steps={config.total_env_steps} ends at update {num_updates:,}, and updates are counted up to "
        f"2**31 - 1. Use at most {config.total_env_steps - (num_updates - most) * config.env_steps_per_update:,}, or "
        "larger updates: raise actors.num_envs or actors.unroll_length.",
    )
