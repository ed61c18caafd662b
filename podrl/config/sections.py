"""Config sections that say what a run computes and where: frozen dataclasses that check their own values.

Import them from `podrl.config.config`, which has the other sections.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from podrl.config.ranges import LONGEST_S, SIZE, check_values, choice, number, numbers, text, texts
from podrl.config.wrappers import parse_wrapper
from podrl.mistakes import check, shown

_DEEPEST = 100  # Levels of nested lists.


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Which environment to use, and how.

    Attributes:
        source: module in `podrl/envs/`.
        id: the environment's name at that source.
        observation_keys: the entries of a dictionary or tuple to keep, by name, by path (`arm/angles`) or by position;
            empty keeps all.
        parts: `auto` leaves an image beside other entries of an observation an image, for an encoder of its own
            (`network.parts`), and joins the other entries to one vector. `joined` flattens and joins images, too, as
            `auto` does where every part is for an MLP.
        action_mask: the entry of the observation that says which actions can be taken, if there is one of this name; it
            is no part of what the agent sees. `none` makes every entry a part. `info:NAME` is an entry of `info`.
        channels: position of the channels in images [H, W, C]: `first`, `last`, or `auto`, which guesses for uint8 of
            rank 3 (`podrl.envs.observations`). The other two make images of other arrays of rank 2 and 3, too.
        uint8: how uint8 observations are read: as `pixels`, where 255 becomes 1, as `numbers` unchanged, or `auto`:
            pixels if the observation space reaches 255.
        max_episode_steps: steps after which episodes of training are truncated, instead of the environment's own time
            limit; 0 keeps that limit. Evaluation plays up to the environment's own limit where it has one.
        workers: worker processes that share the environments of each pool; with 0 they step in the actor's thread. Only
            for sources that are stepped from Python. Environment workers, `remote.env_workers`, are something else.
        worker_timeout_s: seconds that a worker may take to reset or step its environments before the run ends.
        wrappers: wrappers around each environment as `module:Name` or `module:Name(argument=value)`, the innermost
            first. For the sources of `workers`.
        training_wrappers: as `wrappers`, around those and for training only: evaluations and films leave them out.
        options: arguments of the environment's own constructor; the source checks their names. In texts of these, and
            in arguments of wrappers, `{env_number}` is the environment's number in the job, and `{env_number+5000}`
            5000 more (`podrl.config.env_numbers`).
    """

    source: str = text(200, "envpool")
    id: str = text(500)
    observation_keys: tuple[str, ...] = texts(1000, (), length=200)
    parts: str = choice(("auto", "joined"), "auto")
    action_mask: str = text(200, "action_mask")
    channels: str = choice(("auto", "first", "last"), "auto")
    uint8: str = choice(("auto", "numbers", "pixels"), "auto")
    max_episode_steps: int = number(0, SIZE, 0, open=True)
    workers: int = number(0, 4096, 0)
    worker_timeout_s: float = number(0.001, LONGEST_S, 60.0)
    wrappers: tuple[str, ...] = texts(100, (), length=500)
    training_wrappers: tuple[str, ...] = texts(100, (), length=500)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the values, the wrappers' paths, and that JSON can record the options."""
        check_values(self, "env.")
        for name in ("wrappers", "training_wrappers"):
            for wrapper in getattr(self, name):
                parse_wrapper(f"env.{name}", wrapper)
        for name, value in self.options.items():
            check(
                _is_plain(value),
                f"env.options.{name} cannot be recorded: found {shown(value)}; expected finite numbers, texts, "
                "true, false and None, in lists and in dictionaries whose keys are texts.",
            )


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Returns whether JSON restores a value unchanged, except that tuples become lists. JSON has no NaN or infinity."""
    if depth > _DEEPEST:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(entry, depth + 1) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(entry, depth + 1) for entry in value)
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


# Keys of `env` that belong to podrl and not to an environment; a source says which of them it supports.
ENV_SETTINGS = ("max_episode_steps", "workers", "worker_timeout_s", "wrappers", "training_wrappers")


def check_not_a_setting(option: str, env_id: str) -> None:
    """Raises `ConfigError` if an option that `env_id` lacks is a key of `env`; the message names that key."""
    check(
        option not in ENV_SETTINGS,
        f"env.options.{option} is not an option of {env_id}: it is podrl's own setting env.{option}.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """How actors make experience.

    Attributes:
        num_envs: environments in the whole job; also the number of unrolls in one update.
        unroll_length: steps (T) that each environment takes between two updates.
        threads_per_device: actor threads on each actor device.
        pools_per_thread: environment pools that a thread alternates between; while one steps, it acts for another.
        env_threads: C++ threads of each pool; 0 divides the cores among the actor threads.
        lag: updates between the parameters that act and those that learn from fresh rollouts, always exactly that many
            except after a boundary, where the lag grows from 0; 0 lets no actor act during an update. Each update of
            lag costs memory: one more rollout of every actor on the learner's devices, and one more copy of the
            parameters on every actor's.
        max_lag: the largest such lag with `determinism='free'`, in place of `lag`; it costs the same memory.
        timeout_s: seconds that any thread waits for another before the run ends with an error.
    """

    num_envs: int = number(1, SIZE, 64)
    unroll_length: int = number(1, SIZE, 20)
    threads_per_device: int = number(1, 1024, 1)
    pools_per_thread: int = number(1, 1024, 2)
    env_threads: int = number(0, 4096, 0)
    lag: int = number(0, 1024, 1)
    max_lag: int = number(0, 1024, 2)
    timeout_s: float = number(0.001, LONGEST_S, 120.0)

    def __post_init__(self) -> None:
        """Checks the values."""
        check_values(self, "actors.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network's size and shape.

    Attributes:
        encoder: `resnet` (IMPALA), `nature` (DQN's convolutions), `minatar` (one small convolution), `drq` (four
            convolutions, no dense layer) or `mlp`. Of an observation of several parts it encodes each image; all other
            parts are joined, for an `mlp`. An encoder of your own, `my_package.my_module:MyEncoder`, sees a whole
            observation (docs/howto/own_network.md).
        parts: encoders of parts of an observation that differ from that, as `PART: ENCODER`.
        width: multiplies the channels of `resnet`, `nature`, `minatar` and `drq`, and the dense layer of `nature` and
            `minatar`.
        hidden_sizes: widths of the layers of `mlp`.
        activation: activation function of `mlp`, `relu` or `tanh`.
        separate_value: whether the value has an encoder of its own, of the same kind, instead of sharing the policy's.
        frame_stack: frames that the network sees at once, at most 1,024; actors send one frame, the stack is the
            network's carry. Of an observation of several parts, only images are stacked.
        core: `lstm` lets the network remember earlier steps of an episode; `none` has no memory.
        core_size: units of the LSTM.
        last_action: whether the network sees its last action, beside the encoder's features.
        last_reward: whether the network sees the reward of its last action, clipped to [-1, 1].
        compute_dtype: `float32` or `bfloat16` for activations; parameters stay float32.
        squash_actions: whether continuous actions are hyperbolic tangents of a Gaussian's samples, so that none leaves
            the environment's range. Otherwise they are the samples, and the environment's source clips them to the
            range.
        action_scale: how standard deviations of continuous actions (before any squashing) depend on the observation:
            `shared` is the same for all, `observed` depends on it.
        initial_scale: standard deviation at the start of the run.
        normalize_observations: whether to normalise observations by their running mean and standard deviation, see
            `podrl.agents.parts.normalization`; for vectors.
        normalize_rewards: whether to divide rewards by the running standard deviation of discounted returns, before the
            agent scales and clips them; values are then in these units.
    """

    encoder: str = choice(("resnet", "nature", "minatar", "drq", "mlp"), "mlp", or_own=True)
    parts: tuple[str, ...] = texts(100, (), length=300)
    width: int = number(1, 1024, 1)
    hidden_sizes: tuple[int, ...] = numbers(1, SIZE, (64, 64), longest=100)
    activation: str = choice(("relu", "tanh"), "relu")
    separate_value: bool = False
    frame_stack: int = number(1, SIZE, 1)
    core: str = choice(("lstm", "none"), "none")
    core_size: int = number(1, SIZE, 256)
    last_action: bool = False
    last_reward: bool = False
    compute_dtype: str = choice(("float32", "bfloat16"), "float32")
    squash_actions: bool = False
    action_scale: str = choice(("shared", "observed"), "shared")
    initial_scale: float = number(0.01, 10, 1.0)
    normalize_observations: bool = False
    normalize_rewards: bool = False

    def __post_init__(self) -> None:
        """Checks the values, and that no core is combined with a separate value encoder."""
        check_values(self, "network.")
        check(
            self.core == "none" or not self.separate_value,
            f"network.separate_value has no core of its own; use network.core=none with it, not {self.core!r}.",
        )
        check(
            not (self.parts and self.has_own_encoder),
            f"network.parts={self.parts} has no effect with network.encoder={self.encoder!r}, which sees all parts. "
            "Leave it out.",
        )

    @property
    def has_own_encoder(self) -> bool:
        """Whether the encoder is a class of the user's own."""
        return ":" in self.encoder

    @property
    def encoders(self) -> frozenset[str]:
        """The kinds of encoders that an observation may need, those of its parts included."""
        return frozenset((self.encoder, *(part.rpartition(":")[2].strip() for part in self.parts)))
