"""A process that writes until it is killed: `python -m tests.data.killed_writer FOLDER EPISODES`."""

from pathlib import Path
import sys

from podrl.data.manifest import DataSpec
from podrl.data.writer import DataWriter
from tests.data.episodes import VECTOR, make_episode


def write(folder, episodes):
    """Writes what is missing of that many episodes, with a word on every shard."""
    with DataWriter(Path(folder), DataSpec(env=VECTOR), shard_bytes=2000) as writer:
        writer.begin({"policy": "test"})
        for number in range(episodes):
            shards = len(writer.manifest.shards)
            writer.add(make_episode(number, 5 + number % 17))
            if len(writer.manifest.shards) > shards:
                sys.stdout.write(f"{len(writer.manifest.shards)}\n")
                sys.stdout.flush()
        writer.end()


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]))
