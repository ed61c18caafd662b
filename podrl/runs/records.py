"""Reads back what a run left in its folder. Needs neither JAX nor environments, so that its tools start at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import json
from typing import Any

from etils import epath

from podrl.config.config import ConfigError, check
from podrl.config.renamed import with_new_names
from podrl.telemetry.metrics_file import MOVED, Row, field_reader, read_lines

REPAIR = "Put a good copy there: every checkpoint has one, in checkpoints/N/config/metadata and .../manifest/metadata."
CONFIG_FOLDERS = "config_folders"  # Key of a manifest: the folders of the user's config files.


class Rows:
    """The rows of a `metrics.jsonl`, without an incomplete last line; each reader reads the file anew."""

    def __init__(self, path: epath.Path):
        """Names the file, which iteration reads."""
        self._path = path

    def __iter__(self) -> Iterator[Row]:
        """Yields all fields of each row.

        Raises:
            ConfigError: at a broken line; the message says which.
        """
        return self._read(json.loads)

    def fields(self, *names: str) -> Iterator[Row]:
        """Yields, of each row, the named fields that it has, which is much faster. Raises as `__iter__` does."""
        return self._read(field_reader(names))

    def _read(self, read: Callable[[bytes], Row]) -> Iterator[Row]:
        for number, line in enumerate(read_lines(self._path), start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = read(line)
            except ValueError as error:
                raise ConfigError(f"{self._path}, line {number} is not JSON: {error}.{self._hint()}") from None
            yield row

    def _hint(self) -> str:
        if not self._path.with_name(MOVED).exists():
            return ""
        return f" {MOVED} is beside it: a start of the run drops rows, or was cut short; the next start finishes that."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A run that has begun.

    Attributes:
        folder: the run's folder.
        config: the resolved config; nested, as JSON holds it.
        manifests: one manifest for each start of the run; empty if they were not kept.
        rows: rows of `metrics.jsonl`.
    """

    folder: str
    config: Mapping[str, Any]
    manifests: Sequence[Mapping[str, Any]]
    rows: Rows


def read_record(folder: str) -> Record:
    """Reads a run's folder.

    Raises:
        ConfigError: if it is not one, or a file in it is broken.
    """
    path = epath.Path(folder)
    for file in ("config.json", "metrics.jsonl"):
        check((path / file).exists(), f"{folder} is not the folder of a run: it has no {file}.{name_seeds(path)}")
    return Record(
        folder=folder,
        config=with_new_names(read_json(path / "config.json")),
        manifests=read_manifests(path),
        rows=Rows(path / "metrics.jsonl"),
    )


def name_seeds(folder: epath.Path) -> str:
    """Returns a hint for messages if a folder holds the runs of several seeds; empty otherwise."""
    found = sorted(path.name for path in folder.glob("seed-*")) if folder.exists() else []
    return f" It holds the run of each seed: name {folder}/{found[0]} or another." if found else ""


def read_manifests(folder: epath.Path) -> list[dict[str, Any]]:
    """Returns the manifests of a run's first start and of the starts that resumed it.

    Raises:
        ConfigError: if one is broken.
    """
    names = itertools.chain(["manifest.json"], (f"manifest-{number}.json" for number in itertools.count(2)))
    paths = itertools.takewhile(lambda path: path.exists(), (folder / name for name in names))
    return [read_json(path) for path in paths]


def read_json(path: epath.Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        ConfigError: if it holds anything else, or cannot be read; the message names it.
    """
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}).") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged, it is not JSON: {error}. {REPAIR}") from None
    check(isinstance(found, dict), f"{path} is damaged: it holds no JSON object. {REPAIR}")
    return found
