"""Gymnasium environments, made and stepped where no JAX is: worker processes import this folder and nothing else.

`podrl/envs/sources/gymnasium.py` and `podrl/envs/sources/ale.py` are the sources that speak of them in podrl's terms.
"""
