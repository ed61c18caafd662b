"""How throughput scales: a grid of runs, measured, drawn and written up.

`grid.py` says which points there are, `feasibility.py` which of them can be run; `places.py` and `slurm_array.py` turn
one into a command line, `execution.py` runs them, `folder.py` knows what is done. `measurement.py`, `table.py` and
`summary.py` make numbers of what the runs left; `figures.py`, `conclusions.py` and `report.py` show them to people.
"""
