"""What a sweep of IMPALA on Catch varies; see docs/sweeps.md."""

from typing import Any

import optuna


def sample(trial: optuna.Trial) -> dict[str, Any]:
    """Returns the values of a trial, by dotted keys of the config."""
    return {
        "agent.optimizer.learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
        "agent.entropy_cost": trial.suggest_float("entropy_cost", 1e-4, 1e-1, log=True),
        "actors.unroll_length": trial.suggest_categorical("unroll_length", [5, 10, 20, 40]),
    }
