"""The config section `data`: a data set that a run learns from in place of experience of its own.

Import it from `podrl.config.config`, which has the other sections.
"""

import dataclasses
from typing import Any

from podrl.config import programs
from podrl.config.ranges import SIZE, check_values, choice, number, text
from podrl.mistakes import check, shown

_MOST_STEPS = 2**31 - 1  # Devices count them in 32 bits.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set of recorded episodes that a run learns from; see docs/howto/train_offline.md.

    With `data.path` a run is offline: nothing acts in it except its evaluations, every device learns, and
    `total_updates` is its length. The sections `actors`, `replay` and `remote`, and the placement, then have no
    meaning, except for `actors.timeout_s`.

    Attributes:
        path: the data set's folder, made by `tools/record.py`; empty for none.
        batch: samples of the whole job in the batch of one learner step.
        learner_steps: learner steps of an update, each from a batch of its own; the program makes them in one call.
        rebalance: how episodes of high return get more weight. `none`; `resample` draws their transitions more often;
            `weight` draws all alike and weighs their losses; `decouple` draws a rebalanced batch for the policy and a
            uniform one for its values.
        p_base: added to each weight, which otherwise runs from 0 of the lowest return to 1 of the highest.
        window: rows in memory at most, one more for each episode than it has steps; 0 for all. Samples come from
            these alone, see docs/howto/data_memory.md.
        window_episodes: episodes that the window moves on by.
        window_updates: updates after which it does.
        memory: where the rows are: `host`, whose samples go to the devices ahead of their update; `device`, as a whole
            copy on every learner device, where samples are drawn in the update itself; or `auto`, which takes devices
            that are no CPU if a copy fits a quarter of their memory. The samples are the same, bit for bit.
        prefetch: updates whose samples are made and put on the devices ahead of need; with `memory=host`.
    """

    path: str = text(4096, "", or_empty=True)
    batch: int = number(1, SIZE, 256)
    learner_steps: int = number(1, 10**6, 1)
    rebalance: str = choice(("none", "resample", "weight", "decouple"), "none")
    p_base: float = number(0, 1e6, 0.0)
    window: int = number(0, 1e12, 0)
    window_episodes: int = number(1, SIZE, 1)
    window_updates: int = number(1, SIZE, 1)
    memory: str = choice(("auto", "host", "device"), "auto")
    prefetch: int = number(1, 1000, 2)

    def __post_init__(self) -> None:
        """Checks the values, and that rows on the devices have no window."""
        check_values(self, "data.")
        check(
            not self.window or self.memory != "device",
            f"data.window={self.window} moves over a data set in host memory, and data.memory='device' holds all of it "
            "on the devices. Use data.memory=host, or data.window=0.",
        )

    def check_run(self, config: Any) -> None:
        """Checks what a run's config says of data against its agent, its length and its topology.

        Args:
            config: The `podrl.config.config.Config` that is being made.

        Raises:
            ConfigError: If they do not fit.
        """
        shape, name = config.agent.update_shape, shown(config.agent.name)
        if not config.is_offline:
            self._check_no_data(config)
            return
        check(
            shape.recorded is not None,
            f"agent.name={name} cannot learn from data.path={shown(self.path)}: it learns from the experience of its "
            "own policy. Use bc, or td3 or iql for actions that are numbers, or rosmo for one choice. Or leave "
            "data.path empty.",
        )
        check(
            bool(self.path) or config.smoke,
            f"agent.name={name} learns from a data set alone, and data.path is empty. Add --config.data.path=FOLDER of "
            f"one that {programs.program_of('record')} made.",
        )
        check(
            config.total_updates > 0,
            "total_updates=0 with data.path: a run from a data set is as long as total_updates, and total_env_steps "
            "has no meaning in it. Set total_updates, such as --config.total_updates=100_000.",
        )
        made = config.total_updates * self.learner_steps
        check(
            made <= _MOST_STEPS,
            f"total_updates={config.total_updates} of data.learner_steps={self.learner_steps} are {made:,} learner "
            "steps, which are counted up to 2**31 - 1. Lower one of them.",
        )
        check(
            config.checkpoint.keep_best == 0,
            f"checkpoint.keep_best={config.checkpoint.keep_best} with data.path: it goes by the return of a run's own "
            "episodes, and this run has none. Use checkpoint.keep_every, and rows of evaluations.",
        )
        self._check_has_effect()
        check(
            config.topology.seeds == 1,
            f"topology.seeds={config.topology.seeds} with data.path: a run from a data set has one seed. Start a run "
            "for each.",
        )
        for key in ("env_workers", "actor_workers"):
            check(
                getattr(config.remote, key) == 0,
                f"remote.{key}={getattr(config.remote, key)} with data.path: no actors run, for which workers would "
                f"step or act. Leave remote.{key} at 0.",
            )
        check(
            config.topology.actor_devices_per_process == 0,
            f"topology.actor_devices_per_process={config.topology.actor_devices_per_process} with data.path: no actors "
            "run, and every device learns. Leave it at 0.",
        )

    def _check_has_effect(self) -> None:
        """Raises `ConfigError` if a key is set that has no meaning without another."""
        check(
            not self.p_base or self.rebalance != "none",
            f"data.p_base={self.p_base:g} with data.rebalance='none': there are no weights to add it to. Set "
            "data.rebalance, or leave it out.",
        )
        for key in ("window_episodes", "window_updates"):
            check(
                getattr(self, key) == 1 or self.window > 0,
                f"data.{key}={getattr(self, key)} with data.window=0: there is no window to move. Set data.window, or "
                "leave it out.",
            )

    def _check_no_data(self, config: Any) -> None:
        """Raises `ConfigError` if keys are set that have no meaning without a data set."""
        check(
            config.total_env_steps > 0,
            "total_env_steps=0 must lie in [1, 1e15]. Only a run from a data set (data.path) has total_updates in its "
            "place.",
        )
        check(
            config.total_updates == 0,
            f"total_updates={config.total_updates} is the length of a run from a data set, and data.path is empty. Use "
            "total_env_steps, or set data.path.",
        )
        default = {field.name: field.default for field in dataclasses.fields(self)}
        values = {f"data.{name}": getattr(self, name) for name in default}
        found = [f"{key}={shown(value)}" for key, value in values.items() if value != default[key.partition(".")[2]]]
        check(
            not found,
            f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'} for runs from a data set, and data.path is "
            f"empty. Set data.path, or leave {'it' if len(found) == 1 else 'them'} out.",
        )
