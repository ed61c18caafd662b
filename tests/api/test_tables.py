"""`podrl.metrics` on a real run."""

import sys

import numpy as np
import pytest

import podrl
from tests.api.short import train
from tests.processes import read_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder, evaluate__every_updates=2, evaluate__episodes=2)
    return folder


def test_rows_and_columns_are_those_of_the_file(run):
    pytest.importorskip("pandas")
    table, rows = podrl.metrics(run), read_rows(run)
    assert len(table) == len(rows)
    assert set(table.columns) == {name for row in rows for name in row}
    assert table["learner_steps"].max() == 4
    updates = table[table["evaluate/return"].isna()]
    np.testing.assert_array_equal(updates["loss/total"], [row["loss/total"] for row in rows if "loss/total" in row])
    assert 0 < len(updates) < len(table)


def test_without_pandas_one_line_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(podrl.ConfigError, match=r"podrl.metrics needs pandas: pip install pandas"):
        podrl.metrics(run)
