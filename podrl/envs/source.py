"""Environment sources: where timesteps come from.

A source is a module with a record `SOURCE` of its functions (see `Source`), in `podrl/envs/sources/` or anywhere on the
import path. `config.env.source = 'envpool'` imports `podrl.envs.sources.envpool`; a dotted name such as
`my_package.my_source` is imported as it is, so that users add their own sources without a change to podrl. A source is
imported only when it is used, so other sources' packages need not be installed.

Every source keeps the one reset rule of `podrl.types`: the final observation of an episode arrives with the step that
ended it, and the next step ignores its action and returns the first observation of a new episode, with `first` true,
reward 0 and discount 1.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib
import pkgutil
from typing import Any, Protocol

from flax import struct
import jax
import numpy as np

from podrl.config.config import ConfigError, EnvConfig, check_one_of, did_you_mean
from podrl.envs import sources
from podrl.runtime.process_exit import describe_error
from podrl.types import Array, EnvSpec, PyTree, Timestep


class Pool(Protocol):
    """`B` environments that step together; rows keep their order.

    Between `send` and `recv` the environments may step in threads of their own while the caller does other work. All
    arrays are numpy, and the caller may keep them: a pool never writes into what it has returned.
    """

    def reset(self) -> Timestep:
        """Opens an episode in every environment; called once, before the first `send`. All rows are `first`."""
        ...

    def send(self, action: np.ndarray) -> None:
        """Starts one step.

        Args:
            action: [B, ...] of the spec's `actions`; ignored in rows whose episode ended with the last timestep.
        """
        ...

    def recv(self) -> Timestep:
        """Waits for the step that `send` started: [B, ...] observation, float32 reward and discount, bool first."""
        ...

    def close(self) -> None:
        """Frees threads and memory; any later call except `close` raises `RuntimeError`."""
        ...


@struct.dataclass(kw_only=True)
class StepInfo:
    """What a step of `B` JAX environments tells beside the timestep.

    Attributes:
        info: Nested dictionaries of arrays [B, ...]; it tells nothing of environments that were reset.
        ended: [B] bool; the step ended the episode, by termination or truncation.
    """

    info: PyTree
    ended: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class JaxEnvironment:
    """`B` environments as pure functions, to be stepped inside a compiled program; see `podrl.envs.pools.in_graph`.

    Every environment has keys of its own, so that it does not depend on the others in the batch.

    Attributes:
        init: (keys [B]) -> (state, timestep of [B]); opens an episode in every environment. The state is a pytree of
            [B, ...].
        step: (keys [B], state, action [B, ...]) -> (state, timestep of [B]).
        step_with_info: The same, with what the environments tell; None if they tell nothing.
    """

    init: Callable[[Array], tuple[PyTree, Timestep]]
    step: Callable[[Array, PyTree, Array], tuple[PyTree, Timestep]]
    step_with_info: Callable[[Array, PyTree, Array], tuple[PyTree, Timestep, StepInfo]] | None = None


class PicturePool(Pool, Protocol):
    """A pool that can draw its environments."""

    def picture(self, env: int) -> np.ndarray:
        """Returns a picture of environment `env` after the newest timestep, uint8 [H, W, 3].

        Raises:
            ConfigError: if the environment has no picture.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How an environment is played where scores are reported.

    Attributes:
        env: the environment's config, without what training changes of its episodes and scores.
        facts: the settings that a score depends on, by name, for the report.
        max_episode_steps: time limit of every episode; None if the source knows none.
        steps_per_second: the agent's steps per second at the speed at which a person would watch or play.
    """

    env: EnvConfig
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_episode_steps: int | None = None
    steps_per_second: float = 30.0


class MakePool(Protocol):
    """Makes pools."""

    def __call__(self, config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> Pool:
        """Makes one environment per seed, stepped by `num_threads` (at least 1) threads where the source has any.

        Where `Source.gives_numbers`, it takes `env_numbers` [B] too.
        """
        ...


class MakePicturePool(Protocol):
    """Makes the same pools as `MakePool`, with pictures."""

    def __call__(self, config: EnvConfig, *, seeds: Sequence[int], num_threads: int) -> PicturePool: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where timesteps come from, as functions; every source's module has one as `SOURCE`.

    Attributes:
        make_spec: (config) -> EnvSpec of one environment. Raises `ConfigError` for anything in `config` that it cannot
            do.
        make_pool: Makes pools.
        gives_numbers: Whether it gives environments their numbers in the job (`podrl.config.env_numbers`). Then
            `make_pool` and `make_picture_pool` take `env_numbers`, and `evaluation_protocol` takes an `env_number`.
        gives_info: Whether its pools give numbers of environments' `info`: they are `podrl.envs.info.InfoPool`s.
        settings: Keys of `env` among podrl's own settings that the source keeps; `podrl.envs.settings` refuses others.
        option_hints: (config) -> a type hint for each option of the environment, by which those of the command line are
            read; None if the source does not know its options.
        evaluation_protocol: (config) -> how the environment is played where scores are reported; None: as in training.
        make_spaces: (config) -> an environment's observation and action space in Gymnasium; None if it has none.
        make_environment: (config) -> the environment as a JAX program; None if environments step on the host.
        make_picture_pool: Makes pools that can be watched; None if there are no pictures.
        make_plain: (config) -> environment, its parameters, and what makes observations of its own, for the benchmark's
            plain loop; None if there is no such form.
    """

    make_spec: Callable[[EnvConfig], EnvSpec]
    make_pool: MakePool
    gives_numbers: bool = False
    gives_info: bool = False
    settings: tuple[str, ...] = ()
    option_hints: Callable[[EnvConfig], Mapping[str, Any]] | None = None
    evaluation_protocol: Callable[..., EvaluationProtocol] | None = None
    make_spaces: Callable[[EnvConfig], tuple[Any, Any]] | None = None
    make_environment: Callable[[EnvConfig], JaxEnvironment] | None = None
    make_picture_pool: MakePicturePool | None = None
    make_plain: Callable[[EnvConfig], tuple[Any, Any, Callable[[PyTree], jax.Array]]] | None = None


def load_source(name: str) -> Source:
    """Imports the environment source `name`.

    Args:
        name: name of a module in `podrl.envs.sources`, or the dotted name of any other module.

    Raises:
        ConfigError: if there is no such module, its import fails, or it is not a source.
    """
    available = sorted(module.name for module in pkgutil.iter_modules(sources.__path__))
    if "." not in name:
        check_one_of("env.source", name, available)
    module = name if "." in name else f"{sources.__name__}.{name}"
    unknown = ConfigError(
        f"env.source={name!r} cannot be imported{did_you_mean(name, available)} "
        f"Available: {', '.join(available)}, or the dotted name of a module of your own."
    )
    if not all(part.isidentifier() for part in module.split(".")):
        raise unknown
    try:
        found = importlib.import_module(module)
    except ConfigError:  # The source's own word on what it lacks.
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise unknown from None
        raise ConfigError(f"env.source={name!r} needs a module that is not installed: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"env.source={name!r} failed while it was imported: {describe_error(error)}") from error
    source = getattr(found, "SOURCE", None)
    if not isinstance(source, Source):
        raise ConfigError(
            f"env.source={name!r} is not an environment source: it has no SOURCE, a podrl.envs.source.Source of its "
            "functions make_spec and make_pool."
        )
    return source


def evaluation_protocol(source: Source, config: EnvConfig, *, env_number: int = 0) -> EvaluationProtocol:
    """Returns the environment's own protocol: the source's `evaluation_protocol(config)`, or else training's settings.

    Time limits follow one rule for every source: an evaluation plays up to the environment's own limit, whatever
    `env.max_episode_steps` is in training. If the environment has none, `env.max_episode_steps` applies. If there is
    neither, episodes have to end by themselves, see `podrl.evaluation.endless`.

    Args:
        source: Makes the environment.
        config: The environment's config in training.
        env_number: The number of the environment that the source makes for this, if it makes one.
    """
    make, number = source.evaluation_protocol, {"env_number": env_number} if source.gives_numbers else {}
    env = dataclasses.replace(config, training_wrappers=())
    protocol = make(config, **number) if make else EvaluationProtocol(env=env, facts=option_facts(config))
    limit = config.max_episode_steps
    if protocol.max_episode_steps is not None or not limit:
        return protocol
    return dataclasses.replace(
        protocol,
        env=dataclasses.replace(protocol.env, max_episode_steps=limit),
        facts={"max_episode_steps": limit} | {n: v for n, v in protocol.facts.items() if n != "max_episode_steps"},
        max_episode_steps=limit,
    )


def option_facts(config: EnvConfig) -> dict[str, Any]:
    """Returns an environment's options for an evaluation's report, prefixed to keep them apart from other facts."""
    return {f"options.{name}": value for name, value in config.options.items()}


def make_environment(source: Source, config: EnvConfig) -> JaxEnvironment:
    """Returns the environment as pure functions, from the source's `make_environment(config)`.

    Raises:
        ConfigError: if the source steps its environments on the host, or does not support what `config` asks for.
    """
    if source.make_environment is None:
        raise ConfigError(
            f"env.source={config.source!r} steps its environments on the host (it has no make_environment), and "
            "topology.placement='anakin' inside the compiled program. Use topology.placement=sebulba, or a source of "
            "JAX environments, such as env.source=gymnax."
        )
    return source.make_environment(config)
