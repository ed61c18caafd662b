"""The config section `rewards`: where the rewards that an agent learns from come from."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from podrl.config.ranges import check_values, choice, number, numbers
from podrl.mistakes import check

_TEACHER = ("rationality", "myopia", "mistakes", "skip_below", "tie_within")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardsConfig:
    """Rewards learned from comparisons of segments (docs/rewards.md). Other keys have no effect without them.

    The number of simulated teachers is the length of the longest list of their values; a list of one value is for all.

    Attributes:
        source: `environment`, or `preferences`: a reward learned from which of two segments a teacher prefers. Agents
            never see the environment's reward then; rows of metrics and evaluations still have it.
        every_updates: updates between two rounds, each of which asks, labels and refits.
        first_update: no round before this update; until one has labels, rewards are those of `neighbours`.
        queries: pairs of segments in a round.
        max_queries: pairs in the whole run, rounded up to whole rounds; the label store has their size.
        segment_length: steps of a segment; none crosses an episode's end.
        candidates: segments drawn from the replay for each one that is asked about. Those that an episode's end crosses
            are left out; more candidates make it less likely that a round finds too few.
        selection: which pairs of candidates are asked about: `uniform`, or those of the largest `disagreement`, the
            deviation of the members' probabilities.
        held_out: share of the labels that no member learns from, for `reward/accuracy`.
        probe: steps of the first round with labels, on which `reward/drift` compares the rewards before and
            after each refit.
        members: reward models, each with its own initial weights and minibatches.
        model: `latent` passes (s, a) through a stochastic latent held to a standard normal; `plain` has none, as
            PEBBLE.
        combine: the members' weights in the reward: in proportion to their latents' divergence from the standard normal
            (`confidence`), or equal (`mean`).
        latent_size: numbers of the latent.
        kl_weight: weight of the latent's divergence from a standard normal beside the cross-entropy.
        hidden_sizes: widths of the layers before the latent.
        decoder_sizes: widths of the layers after the latent.
        tanh_output: whether a reward is the hyperbolic tangent of what the network puts out.
        refit_learning_rate: Adam's learning rate, for every member.
        refit_steps: optimizer steps of each member in a round.
        refit_batch: labels in each of these steps.
        neighbours: before the first labels a step's reward is log(c + distance to the k-th nearest observation of its
            batch), k this number; 0 gives no reward then.
        neighbour_offset: c of that.
        rationality: each teacher's inverse temperature of a preference; a large one always prefers the larger return.
        myopia: each teacher's discount of a segment's earlier steps; 1 weighs all steps alike.
        mistakes: probability that each teacher says the opposite.
        skip_below: each teacher gives no answer where both returns are below this.
        tie_within: each teacher calls returns equal that differ by this or less.
    """

    source: str = choice(("environment", "preferences"), "environment")
    every_updates: int = number(1, 1e9, 100)
    first_update: int = number(0, 1e9, 0)
    queries: int = number(1, 1e6, 50)
    max_queries: int = number(1, 1e6, 1000)
    segment_length: int = number(1, 1e6, 50)
    candidates: int = number(1, 1000, 4)
    selection: str = choice(("disagreement", "uniform"), "uniform")
    held_out: float = number(0, 0.9, 0.1)
    probe: int = number(1, 1e6, 256)
    members: int = number(1, 1000, 3)
    model: str = choice(("latent", "plain"), "plain")
    combine: str = choice(("confidence", "mean"), "mean")
    latent_size: int = number(1, 1e5, 16)
    kl_weight: float = number(0, 1e9, 100.0)
    hidden_sizes: tuple[int, ...] = numbers(1, 1e5, (256, 256), longest=100)
    decoder_sizes: tuple[int, ...] = numbers(1, 1e5, (256,), longest=100)
    tanh_output: bool = True
    refit_learning_rate: float = number(1e-12, 10, 3e-4)
    refit_steps: int = number(1, 1e7, 200)
    refit_batch: int = number(1, 1e6, 50)
    neighbours: int = number(0, 1e6, 5)
    neighbour_offset: float = number(1e-9, 1e6, 1.0)
    rationality: tuple[float, ...] = numbers(0, 1e9, (1e6,), longest=1000)
    myopia: tuple[float, ...] = numbers(0, 1, (1.0,), longest=1000)
    mistakes: tuple[float, ...] = numbers(0, 1, (0.0,), longest=1000)
    skip_below: tuple[float, ...] = numbers(-1e9, 1e9, (-1e9,), longest=1000)
    tie_within: tuple[float, ...] = numbers(0, 1e9, (0.0,), longest=1000)

    def __post_init__(self) -> None:
        """Checks the values, that there are teachers, and that members have what they are weighed by."""
        check_values(self, "rewards.")
        lengths = {name: len(getattr(self, name)) for name in _TEACHER}
        check(
            all(length in (1, self.num_teachers) for length in lengths.values()),
            f"rewards: found {', '.join(f'{length} of {name}' for name, length in lengths.items())}; expected for each "
            "one value, or one for every teacher.",
        )
        check(
            self.model == "latent" or self.combine == "mean",
            "rewards.combine='confidence' weighs members by their latents, which rewards.model='plain' has none of. Use"
            " rewards.combine=mean.",
        )

    @property
    def is_learned(self) -> bool:
        """Whether rewards are learned."""
        return self.source != "environment"

    @property
    def num_teachers(self) -> int:
        """How many simulated teachers there are."""
        return max(len(getattr(self, name)) for name in _TEACHER)

    @property
    def num_rounds(self) -> int:
        """Rounds of a run."""
        return -(-self.max_queries // self.queries)

    @property
    def first_round(self) -> int:
        """The update after which the first round is."""
        return max(-(-self.first_update // self.every_updates), 1) * self.every_updates

    def rounds_before(self, update: int) -> int | None:
        """Returns how many times an earlier round came, if one may come after an update; else None."""
        since = update - self.first_round
        return since // self.every_updates if since >= 0 and since % self.every_updates == 0 else None

    def of_teachers(self) -> dict[str, Sequence[float]]:
        """Returns what each teacher is like: by key, a value for every teacher."""
        values = {name: getattr(self, name) for name in _TEACHER}
        return {name: value if len(value) > 1 else value * self.num_teachers for name, value in values.items()}

    def check_updates(self, num_updates: int) -> None:
        """Raises `ConfigError` if no update of a run learns from a reward that a round has fitted."""
        check(
            not self.is_learned or self.first_round < num_updates,
            f"The first round of questions comes after update {self.first_round} (rewards.first_update="
            f"{self.first_update}, rewards.every_updates={self.every_updates}), and the last update is {num_updates}: "
            "none would learn from answers. Lower these keys, or raise total_env_steps.",
        )

    def check_run(self, config: Any) -> None:
        """Checks that a run can learn its rewards, and that nothing else shows its agent the environment's.

        Args:
            config: The run's `podrl.config.config.Config`.

        Raises:
            ConfigError: If not.
        """
        if not self.is_learned:
            return
        asked = f"rewards.source={self.source!r}"
        check(
            config.agent.update_shape.sequences is not None and not config.is_offline,
            f"{asked} asks about segments of a replay of the newest steps, which agent.name={config.agent.name!r} does "
            "not have in this run. Use sac, td3, drq, rainbow or r2d2, without data.path.",
        )
        length = config.agent.update_shape.sequences.length
        check(
            length == 1 or not self.neighbours,
            f"rewards.neighbours={self.neighbours} rewards observations that are far from the others of a batch, and "
            f"with agent.length={length} the nearest are those of the steps beside it. Use rewards.neighbours=0, or an "
            "agent that learns from single transitions.",
        )
        for key, shows in (("normalize_rewards", "normalises"), ("last_reward", "shows the network")):
            check(
                not getattr(config.network, key),
                f"network.{key}=True {shows} the rewards that came while acting, which are the environment's; with "
                f"{asked} the agent must not have them. Leave it at False.",
            )
        check(
            config.topology.seeds == 1,
            f"topology.seeds={config.topology.seeds} with {asked}: one run asks its teachers for one seed. Use "
            "topology.seeds=1, and a run for each seed.",
        )
