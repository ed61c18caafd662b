"""Starts the members of a job: processes on this machine, a SLURM job, the workers of a TPU slice.

Nothing here imports JAX: a launcher starts at once and holds no device. It starts the same command without the launch
flags on every host; `options.py` reads those flags, `start.py` chooses what to start.
"""
