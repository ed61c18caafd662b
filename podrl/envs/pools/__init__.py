"""Pools: environments that step together."""
