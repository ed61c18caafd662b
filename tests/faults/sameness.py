"""Whether two folders hold the same run."""

from pathlib import Path
from typing import Any

import jax

from podrl.assembly import assemble, resolve
from podrl.config import commandline
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.state_arrays import to_arrays
from tests.processes import read_rows
from tests.short_runs import facts


def assert_whole(workdir: Path, num_updates: int) -> None:
    """Every update has its row in the metrics, once and in order."""
    assert [row["learner_steps"] for row in read_rows(workdir)] == list(range(1, num_updates + 1))


def assert_same(workdir: Path, straight: Path, arguments: tuple[Any, ...]) -> None:
    """Asserts that `workdir` ended as `straight` did, which nothing disturbed.

    All rows are equal but for the clock, fingerprints included, and the last checkpoint byte for byte.

    Args:
        workdir: of the run with the fault.
        straight: of the other one.
        arguments: of both commands; `log.every_updates` is 1.
    """
    config = resolve(commandline.parse_command_line(["", *map(str, arguments)]).config)
    assert_whole(workdir, config.num_updates)
    ours, theirs = facts(read_rows(workdir)), facts(read_rows(straight))
    assert [row for row, other in zip(ours, theirs, strict=True) if row != other] == []
    ours, theirs = (_leaves(folder, config) for folder in (workdir, straight))
    assert ours.keys() == theirs.keys()
    assert "step" in ours
    assert any(path.startswith("params/policy/") for path in ours)
    assert [path for path in ours if ours[path] != theirs[path]] == []


def _leaves(workdir: Path, config: Any) -> dict[str, bytes]:
    """The bytes of every array of the last state, by its path."""
    shape = assemble(config, jax.devices()[:1]).state_shape
    with Checkpointer(workdir, keep=99) as checkpointer:
        state = checkpointer.restore(shape, config.num_updates).state
    words = jax.device_get(to_arrays(state))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.dtype.str.encode() + leaf.tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(words)
    }
