"""Gymnasium environments, made and stepped without JAX: worker processes import only this folder.

`podrl/envs/sources/gymnasium.py` is the source that builds on it.
"""
