"""A scaling study as SLURM arrays, on a real SLURM of two nodes."""

import csv
import re
import subprocess
import sys

import pytest

from tests.processes import LIMIT_S, ROOT, num_rows, wait_for
from tests.slurm.test_launch import ENDED
from tests.studies.studies import CATCH

STUDY = (
    *(f"--config={CATCH}", "--workdir=study", "--processes=1,2", "--scaling=strong", "--seconds=6"),
    *("--config.actors.num_envs=16", "--config.network.hidden_sizes=(16,)", "--config.log.every_updates=1"),
    *("--config.checkpoint.every_updates=10", "--launch=slurm", "--device=cpu"),
)


def study(cluster, cwd, *more):
    command = [sys.executable, str(ROOT / "tools/scaling_study.py"), *STUDY, *more]
    return subprocess.run(command, cwd=cwd, env=cluster.environ, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.slow
def test_a_study_is_an_array_for_each_number_of_nodes_and_a_report(cluster, tmp_path):
    result = study(cluster, tmp_path)
    assert result.returncode == 0, result.stderr
    one, _, last = map(int, re.search(r"array\(s\) (\d+), (\d+); job (\d+) writes", result.stdout).groups())
    folder = tmp_path / "study/points/strong-1x1/seed-1"
    wait_for(lambda: num_rows(folder) >= 15)
    cluster.call("scancel", "--signal=TERM", str(one))  # As at a preemption: it is requeued, and goes on.
    cluster.wait_for_state(one, ("PENDING",), restarts=1)
    again = study(cluster, tmp_path)
    assert again.returncode == 2
    assert "jobs of this study are still in SLURM's queue: " in again.stderr
    cluster.start_soon(one)
    assert cluster.wait_for_state(last, ENDED) == "COMPLETED", cluster.output(last)
    rows = list(csv.DictReader((tmp_path / "study/runs.csv").read_text().splitlines()))
    assert [(row["processes"], row["status"]) for row in rows] == [("1", "complete"), ("2", "complete")]
    assert rows[0]["starts"] == "2"
    assert all(float(row["measured_s"]) >= 6 for row in rows)
    assert (tmp_path / "study/report.html").exists()
    assert "Resumes the run in this folder" in (folder / "job.log").read_text()
    assert f"process 1 of 2 on {cluster.nodes[1]}" in (tmp_path / "study/points/strong-2x1/seed-1/job.log").read_text()

    done = study(cluster, tmp_path)  # Nothing is left: no jobs, but the report.
    assert done.returncode == 0, done.stderr
    assert "Submitted" not in done.stdout
    assert "All 2 runs are complete." in done.stderr
