"""Configuration: the sections and keys of a run as frozen dataclasses, which check their own ranges.

`podrl.config_dict` makes them from what a config file and the command line say, and nobody writes to a config after
that. Hyper-parameters are *global*: they count environments, steps and batches of the whole job, so that they mean the
same on every machine.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import difflib
from typing import Any

MISTAKE = 2  # Exit code.


class ConfigError(ValueError):
    """A mistake in a config or on the command line: one clear line for the user, and exit code `MISTAKE`."""


def check(condition: bool, message: str) -> None:
    """Raises `ConfigError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Which environment.

    Attributes:
        source: module in `podrl/envs/`.
        id: the environment's name at that source.
        observation_keys: for dictionary observations, the entries to keep; empty keeps all. They are flattened in
            sorted order.
        channels: of images [H, W, C], where the environment has them: `first`, `last`, or `auto`, which guesses for
            uint8 of rank 3 (`podrl.envs.observations`). The other two make images of other arrays of rank 2 and 3, too.
        uint8: what uint8 counts as: `pixels`, of which 255 is 1, `numbers` as they are, or `auto`: pixels where its
            space reaches 255.
        max_episode_steps: truncates episodes of training after so many steps, in the place of the environment's own
            time limit; 0 leaves that as it is. Evaluation plays up to the environment's own limit where it has one.
        workers: processes that share the environments of each pool; with 0 they step in the actor's thread. For sources
            that are stepped from Python.
        worker_timeout_s: seconds that a worker may take to reset or step its environments before the run ends.
        wrappers: `module:Name` of what is put around each environment, the innermost first. For the same sources.
        training_wrappers: the same around those, for training only: evaluations and films leave them out.
        options: arguments of the environment's own constructor; the source checks their names.
    """

    source: str = "envpool"
    id: str
    observation_keys: tuple[str, ...] = ()
    channels: str = "auto"
    uint8: str = "auto"
    max_episode_steps: int = 0
    workers: int = 0
    worker_timeout_s: float = 60.0
    wrappers: tuple[str, ...] = ()
    training_wrappers: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks ranges and names."""
        check_one_of("env.channels", self.channels, ("auto", "first", "last"))
        check_one_of("env.uint8", self.uint8, ("auto", "numbers", "pixels"))
        check_at_least(self, "env", "max_episode_steps", 0)
        check_at_least(self, "env", "workers", 0)
        check(self.worker_timeout_s > 0, f"env.worker_timeout_s={self.worker_timeout_s:g} must be positive (seconds).")
        for name in ("wrappers", "training_wrappers"):
            for path in getattr(self, name):
                check(
                    all(path.partition(":")),
                    f"env.{name}: {path!r} must be 'module:Name', such as 'gymnasium.wrappers:FlattenObservation'.",
                )
        for name, value in self.options.items():
            check(
                _is_plain(value),
                f"env.options.{name} is not to be recorded: found {value!r:.60}; expected numbers, texts, true, false "
                "and None, in lists and in dictionaries whose keys are texts.",
            )


def _is_plain(value: Any) -> bool:
    """Whether JSON brings it back as it was, but for tuples, which become lists."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


# Keys of `env` that are podrl's and not an environment's; a source says which of them it keeps.
ENV_SETTINGS = ("max_episode_steps", "workers", "worker_timeout_s", "wrappers", "training_wrappers")


def check_not_a_setting(option: str, env_id: str) -> None:
    """Raises `ConfigError` if an option that `env_id` does not have is a key of `env`; names that key."""
    check(
        option not in ENV_SETTINGS,
        f"env.options.{option} is not an option of {env_id}: it is podrl's own setting env.{option}.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """How experience is made.

    Attributes:
        num_envs: environments in the whole job; also the number of unrolls in one update.
        unroll_length: steps (T) that each environment takes between two updates.
        threads_per_device: actor threads on each actor device.
        pools_per_thread: environment pools that a thread takes turns with; while one steps, another is acted for.
        env_threads: C++ threads of each pool; 0 divides the cores over the actor threads.
        synchronous: if true, rollouts wait for the newest parameters (lag 0) instead of overlapping with the update.
        max_lag: updates by which the parameters that act may be behind the newest, with `determinism='free'`; at least
            1. Otherwise the lag is exactly 1. Each costs memory: a rollout more of every actor on the learner's
            devices, and a copy of the parameters more on every actor's.
        timeout_s: seconds that any thread waits for another before the run ends with an error.
    """

    num_envs: int = 64
    unroll_length: int = 20
    threads_per_device: int = 1
    pools_per_thread: int = 2
    env_threads: int = 0
    synchronous: bool = False
    max_lag: int = 2
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("num_envs", "unroll_length", "threads_per_device", "pools_per_thread", "max_lag"):
            check_at_least(self, "actors", name, 1)
        check_at_least(self, "actors", "env_threads", 0)
        check(self.timeout_s > 0, f"actors.timeout_s={self.timeout_s} must be positive (seconds).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network's size and shape.

    Attributes:
        encoder: `resnet` (IMPALA), `nature` (DQN's convolutions), `minatar` (one small convolution) or `mlp`.
        width: multiplies the channels of `resnet`, `nature` and `minatar`, and the dense layer of the last two.
        hidden_sizes: layers of `mlp`.
        activation: of `mlp`, `relu` or `tanh`.
        separate_value: the value has an encoder of its own, of the same kind, instead of sharing the policy's.
        frame_stack: frames that the network sees at once; actors send one, the stack is the network's carry.
        core: `lstm` lets the network remember what it saw earlier in an episode; `none` is without.
        core_size: units of the LSTM.
        last_action: whether the network sees its last action, beside the encoder's features.
        last_reward: whether it sees what that action earned, clipped to [-1, 1].
        compute_dtype: `float32` or `bfloat16` for activations; parameters stay float32.
        squash_actions: continuous actions are hyperbolic tangents of a Gaussian's samples, so that none leaves the
            environment's range. Otherwise they are the samples, and the environment's source clips what leaves it.
        action_scale: standard deviations of continuous actions (before any squashing): `shared`, the same whatever the
            network sees, or `observed`, which depend on it.
        initial_scale: at the start of the run.
        normalize_observations: by their running mean and standard deviation, see `podrl.normalization`; for vectors.
        normalize_rewards: by the running standard deviation of discounted returns, before the agent scales and clips
            them; values then are in these units.
    """

    encoder: str = "mlp"
    width: int = 1
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "relu"
    separate_value: bool = False
    frame_stack: int = 1
    core: str = "none"
    core_size: int = 256
    last_action: bool = False
    last_reward: bool = False
    compute_dtype: str = "float32"
    squash_actions: bool = False
    action_scale: str = "shared"
    initial_scale: float = 1.0
    normalize_observations: bool = False
    normalize_rewards: bool = False

    def __post_init__(self) -> None:
        """Checks ranges and names."""
        check_one_of("network.core", self.core, ("lstm", "none"))
        check_one_of("network.encoder", self.encoder, ("resnet", "nature", "minatar", "mlp"))
        check_one_of("network.activation", self.activation, ("relu", "tanh"))
        check_one_of("network.compute_dtype", self.compute_dtype, ("float32", "bfloat16"))
        check_one_of("network.action_scale", self.action_scale, ("shared", "observed"))
        check(
            0.01 <= self.initial_scale <= 10,
            f"network.initial_scale={self.initial_scale:g} must lie in [0.01, 10]; actions span [-1, 1].",
        )
        check_at_least(self, "network", "width", 1)
        check_at_least(self, "network", "frame_stack", 1)
        check_at_least(self, "network", "core_size", 1)
        check(
            self.core == "none" or not self.separate_value,
            f"network.separate_value has no core of its own; use network.core=none with it, not {self.core!r}.",
        )
        check(
            all(size > 0 for size in self.hidden_sizes),
            f"network.hidden_sizes={self.hidden_sizes} must all be positive.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopologyConfig:
    """How each process splits its own devices.

    With `placement='sebulba'` the first `actor_devices_per_process` act and the last `learner_devices_per_process`
    learn; where the two overlap, a device does both. Zero means automatic: one device does both, of more the learners
    get the largest power of two that leaves a device to act, and the actors the largest that is left (1+1, 2+2, 4+4).
    On TPU v5e slices of more than 16 chips all devices do both: the compiler takes no program for a part of these.
    With `anakin` there is no such split.

    Attributes:
        placement: where environments are stepped. `sebulba`: by actor threads on the host, while the learner learns.
            `anakin`: inside the compiled program, together with acting and learning, on every device; for environments
            that are JAX programs, such as those of `env.source=gymnax`. Lag is always 0, environments are a part of
            the checkpoint, and of `actors` only `num_envs`, `unroll_length` and `timeout_s` have a meaning.
        updates_per_call: with `anakin`, updates that the compiled program makes at the most before it returns; it
            returns for each row of metrics, checkpoint and evaluation, and a run can be stopped only then.
        actor_devices_per_process: devices that act.
        learner_devices_per_process: devices that learn.
        model_devices: size of the learner mesh's `model` axis, over which wide layers are split; the batch is split
            over the rest of the learner's devices, the axis `data`.
        sharding: how wide parameters and their optimizer state are laid out: `replicated`, whole on every learner
            device; `tensor`, each layer split over `model`; `fsdp`, split over `data` and gathered for use, and over
            `model` as well where there is such an axis. `auto` is `tensor` if `model_devices` is above 1 and there are
            no rules, else `replicated`. See docs/sharding.md.
        parameter_sharding: rules that come first, such as `encoder/Dense_0/kernel: -, model`: a regular expression that
            is looked for in a parameter's path, and the mesh axis (`data`, `model`, or `-` for none) of each of its
            dimensions. The first rule that matches decides; what none matches is left to `sharding`.
    """

    placement: str = "sebulba"
    updates_per_call: int = 10
    actor_devices_per_process: int = 0
    learner_devices_per_process: int = 0
    model_devices: int = 1
    sharding: str = "auto"
    parameter_sharding: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks ranges and names."""
        check_one_of("topology.placement", self.placement, ("sebulba", "anakin"))
        check_at_least(self, "topology", "updates_per_call", 1)
        for name in ("actor_devices_per_process", "learner_devices_per_process"):
            check_at_least(self, "topology", name, 0)
            check(
                self.placement == "sebulba" or getattr(self, name) == 0,
                f"topology.{name}={getattr(self, name)} has no meaning with topology.placement='anakin', where every "
                "device acts and learns. Leave it at 0, or use topology.placement=sebulba.",
            )
        check_at_least(self, "topology", "model_devices", 1)
        check_one_of("topology.sharding", self.sharding, ("auto", "replicated", "tensor", "fsdp"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept, and where a run can go on bit for bit.

    At each of these checkpoints environments on the host are opened anew, also in a run that is not stopped
    (`podrl.schedule` says why): the interval is a part of the experiment. Episodes under way then are lost to the
    statistics, long ones more often than short ones: make it many times as long as an episode, and longer than the time
    limit in any case. Environments inside the compiled program are a part of the checkpoint and play on.

    Attributes:
        every_updates: updates between checkpoints; 0 saves only at the end.
        keep: newest checkpoints kept; one of a run that was stopped in between does not count.
        keep_every: updates between checkpoints that are kept for good, a multiple of `every_updates`; 0 for none.
        keep_best: checkpoints kept for the highest mean return of the newest `log.episodes` episodes; those made before
            an episode ended, or between boundaries, do not count. 0 for none.
    """

    every_updates: int = 1000
    keep: int = 3
    keep_every: int = 0
    keep_best: int = 0

    def __post_init__(self) -> None:
        """Checks ranges, and that there are checkpoints to keep for good."""
        for name in ("every_updates", "keep_every", "keep_best"):
            check_at_least(self, "checkpoint", name, 0)
        check_at_least(self, "checkpoint", "keep", 1)
        check(
            not self.keep_every or (self.every_updates > 0 and self.keep_every % self.every_updates == 0),
            f"checkpoint.keep_every={self.keep_every} must be a multiple of checkpoint.every_updates="
            f"{self.every_updates}, since checkpoints are made at multiples of that only; 0 keeps none for good.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Episodes by the environment's own protocol while training goes on, with the parameters of exactly one update.

    Attributes:
        every_updates: updates between evaluations; the last update has one too. 0 for none at all.
        episodes: to play each time, or a few more: every environment plays the same number.
        greedy: whether to take what the agent holds for best, instead of sampling as in training.
        timeout_s: seconds that the learner waits for an evaluation before the run ends with an error.
    """

    every_updates: int = 0
    episodes: int = 20
    greedy: bool = False
    timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_at_least(self, "evaluate", "every_updates", 0)
        check_at_least(self, "evaluate", "episodes", 1)
        check(self.timeout_s > 0, f"evaluate.timeout_s={self.timeout_s} must be positive (seconds).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written down.

    Attributes:
        every_updates: updates between two rows of `metrics.jsonl`.
        episodes: newest finished episodes that `episode/return` averages over.
        tensorboard: also write TensorBoard events.
    """

    every_updates: int = 10
    episodes: int = 100
    tensorboard: bool = True

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_at_least(self, "log", "every_updates", 1)
        check_at_least(self, "log", "episodes", 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run.

    Attributes:
        name: of the run, in its folder and on the screen.
        seed: of everything random.
        total_env_steps: agent decisions to learn from.
        smoke: shrink the run so that it ends in seconds.
        determinism: `exact`: the same config, seed, topology and software give the same parameters, bit for bit,
            whatever the timing of threads, and a run that was stopped goes on bit for bit. `free`: actors take the
            newest parameters that are ready, at most `actors.max_lag` behind, environments are never opened anew, and
            GPUs may use operations that differ from run to run.
        on_nonfinite: what to do about an update whose loss or gradient is NaN or infinite: `stop` the run, or `skip`
            the update, which leaves the learner's state as it was and counts in `grad/skipped` of the next row.
        watchdog_s: seconds that any thread may stand still, compilation not counted, before the run ends with an
            account of who waits for whom; longer than `actors.timeout_s`, whose errors say more.
        agent: the dataclass `AgentConfig` of the agent's own module.
        env, actors, network, topology, checkpoint, evaluate, log: see there.
    """

    name: str = "run"
    seed: int = 1
    total_env_steps: int
    smoke: bool = False
    determinism: str = "exact"
    on_nonfinite: str = "stop"
    watchdog_s: float = 300.0
    env: EnvConfig
    actors: ActorsConfig
    agent: Any
    network: NetworkConfig
    topology: TopologyConfig
    checkpoint: CheckpointConfig
    evaluate: EvaluateConfig
    log: LogConfig

    def __post_init__(self) -> None:
        """Checks ranges."""
        check(self.total_env_steps >= 1, f"total_env_steps={self.total_env_steps} must be at least 1.")
        check_one_of("determinism", self.determinism, ("exact", "free"))
        check_one_of("on_nonfinite", self.on_nonfinite, ("skip", "stop"))
        check(
            self.watchdog_s > self.actors.timeout_s,
            f"watchdog_s={self.watchdog_s:g} must be longer than actors.timeout_s={self.actors.timeout_s:g} (seconds).",
        )
        check(0 <= self.seed < 2**31, f"seed={self.seed} must lie in [0, 2**31).")

    @property
    def env_steps_per_update(self) -> int:
        """Agent decisions that one update learns from, over the whole job."""
        return self.actors.num_envs * self.actors.unroll_length

    @property
    def minibatch_grid(self) -> tuple[int, int]:
        """Into how many parts the agent's minibatches divide the environments, and the rows of each.

        The environments by all of `agent.minibatches`, unless the agent has a key `shuffle` that says `time`.
        """
        by_time = getattr(self.agent, "shuffle", "environments") == "time"
        return (1, self.agent.minibatches) if by_time else (self.agent.minibatches, 1)

    @property
    def num_updates(self) -> int:
        """Updates until `total_env_steps` are consumed, rounded up."""
        return -(-self.total_env_steps // self.env_steps_per_update)


def shrink(config: Config) -> Config:
    """The same run made so small that it ends in seconds: for trying a config out, and for tests."""
    row_parts = config.minibatch_grid[1]
    few = max(5 // row_parts, 1) * row_parts
    actors = dataclasses.replace(config.actors, unroll_length=min(config.actors.unroll_length, few))
    agent = dataclasses.replace(config.agent, epochs=1) if hasattr(config.agent, "epochs") else config.agent
    return dataclasses.replace(
        config,
        agent=agent,
        total_env_steps=min(config.total_env_steps, 6 * actors.num_envs * actors.unroll_length),
        actors=actors,
        evaluate=dataclasses.replace(config.evaluate, episodes=min(config.evaluate.episodes, 4)),
        log=dataclasses.replace(config.log, every_updates=1),
    )


def check_at_least(section: Any, prefix: str, name: str, least: int) -> None:
    """Raises `ConfigError` if the field `name` of `section` is below `least`."""
    value = getattr(section, name)
    check(value >= least, f"{prefix}.{name}={value} must be at least {least}.")


def check_one_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Raises `ConfigError` that lists `choices`, and the nearest first, if `value` is none of them."""
    names = sorted(choices)
    if value not in names:
        raise ConfigError(f"{key}={value!r} is not known{did_you_mean(value, names)} Available: {', '.join(names)}.")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where some `known` word is close, else a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."
