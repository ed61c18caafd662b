"""A run from a data set in two processes: each makes its own samples, and together they are those of one process."""

from tests.multihost.test_training import assert_close, train
from tests.offline_runs import COMMAND, write_pendulum
from tests.processes import launch, read_rows


def test_two_processes_learn_what_one_does_with_as_many_devices(tmp_path, monkeypatch):
    folder = write_pendulum(tmp_path / "set")
    arguments = (*COMMAND, f"--config.data.path={folder}", "--config.total_updates=12", "--workdir")
    train(*arguments, "pair", "--config.evaluate.every_updates=12", cwd=tmp_path, processes=2)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    assert launch(*arguments, "alone", cwd=tmp_path).returncode == 0
    rows = [[row for row in read_rows(tmp_path / name) if "fingerprint" in row] for name in ("pair", "alone")]
    batches = [[row["fingerprint/batch"] for row in each] for each in rows]
    assert batches[0] == batches[1]
    assert len(set(batches[0])) == 12
    assert_close(tmp_path / "pair", tmp_path / "alone", 12)
    evaluated = [row for row in read_rows(tmp_path / "pair") if "evaluate/return" in row]
    assert [row["learner_steps"] for row in evaluated] == [12]
