"""The space of a sweep: a Python file whose `sample(trial)` returns values of config keys.

It may also have `make_sampler()` and `make_pruner()`, which return those of Optuna that the sweep is to use.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import ml_collections

from podrl.agents.parts.loading import find_config_type
from podrl.assembly import resolve
from podrl.config import commandline
from podrl.config.config import Config, ConfigError, check
from podrl.config.config_dict import as_values
from podrl.config.extras import install_command
from podrl.config.keys import check_keys_known
from podrl.studies.feasibility import as_arguments

_PROBES = 16  # Samples that are checked before anything is started.
NEEDED = f"Sweeps need Optuna: pip install optuna, or {install_command('sweep')}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """What a sweep varies.

    Attributes:
        path: The file, for messages.
        digest: What tells the file's text from another.
        base: The config with the overrides that all trials have.
        sample: (trial) -> values by dotted keys.
        make_sampler: Returns Optuna's sampler; None for the default.
        make_pruner: Returns Optuna's pruner; None for the default.
    """

    path: str
    digest: str
    base: ml_collections.ConfigDict
    sample: Callable[[Any], Mapping[str, Any]]
    make_sampler: Callable[[], Any] | None
    make_pruner: Callable[[], Any] | None

    def draw(self, trial: Any) -> dict[str, str]:
        """Returns the values of a trial as a command line has them.

        Raises:
            ConfigError: If the file fails, or returns no values by keys.
        """
        try:
            values = self.sample(trial)
        except Exception as error:
            if type(error).__name__ == "TrialPruned":  # Optuna's way to refuse a combination.
                raise
            raise ConfigError(f"{self.path} failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
        check(
            isinstance(values, Mapping) and bool(values) and all(isinstance(key, str) for key in values),
            f"sample(trial) in {self.path} must return values by config keys, such as "
            "{'agent.optimizer.learning_rate': 1e-3}.",
        )
        return {key: str(value) for key, value in values.items()}

    def put_together(self, values: Mapping[str, str]) -> Config:
        """Returns the config of a trial; raises ConfigError if the training would refuse a key or a value."""
        return resolve(self._override(values))

    def check(self) -> None:
        """Checks what the file samples, before anything is started.

        Raises:
            ConfigError: On a key that no config of the agent has, or a value of the wrong type; also if the training
                would refuse every sample. The message names file and key.
        """
        import optuna

        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        refused = []
        for _ in range(_PROBES):
            try:
                values = self.draw(study.ask())
                found = as_values(self._override(values))
                check_keys_known(found, find_config_type(found.get("agent")))
            except optuna.TrialPruned:
                continue
            except ConfigError as error:
                raise ConfigError(_with_place(self.path, error)) from error
            try:
                self.put_together(values)
            except ConfigError as error:
                refused.append(error)
        if len(refused) == _PROBES:
            raise ConfigError(_with_place(self.path, refused[0]))

    def _override(self, values: Mapping[str, str]) -> ml_collections.ConfigDict:
        return commandline.override(self.base, as_arguments(values))


def load_space(path: str, config: str, overrides: Sequence[str]) -> Space:
    """Reads a space's file, and the config that it varies.

    Args:
        path: The file.
        config: The config, by name or file.
        overrides: Overrides of all trials, as on the command line.

    Raises:
        ConfigError: If one is not there, or fails; or if Optuna is missing.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(NEEDED)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base = commandline.override(commandline.load_config(config), list(overrides))
    file = Path(path).expanduser()
    check(file.is_file(), f"--space={path} does not exist. Write a file with a function sample(trial): docs/sweeps.md.")
    spec = importlib.util.spec_from_file_location(f"space_{file.stem}", file)
    check(spec is not None and spec.loader is not None, f"--space={path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except Exception as error:
        raise ConfigError(f"--space={path} failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
    sample: Any = getattr(module, "sample", None)
    check(callable(sample), f"--space={path} has no function sample(trial): docs/sweeps.md.")
    make_sampler, make_pruner = (getattr(module, name, None) for name in ("make_sampler", "make_pruner"))
    return Space(
        path=path,
        digest=digest_of(file),
        base=base,
        sample=sample,
        make_sampler=make_sampler,
        make_pruner=make_pruner,
    )


def digest_of(file: Path) -> str:
    """Returns the first digits of the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def default_space(config: str) -> str:
    """Returns the space's file of a config's file: `spaces/impala_catch.py` beside `impala_catch.py`."""
    path = Path(config)
    return str(path.parent / "spaces" / path.name)


def _with_place(path: str, error: ConfigError) -> str:
    text = str(error)
    return text if path in text else f"{path}: {text}"
