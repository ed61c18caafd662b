"""Gymnasium environments, made and stepped without JAX: worker processes import only this folder.

`podrl/envs/sources/gymnasium.py` and `podrl/envs/sources/ale.py` are the sources that build on it.
"""
