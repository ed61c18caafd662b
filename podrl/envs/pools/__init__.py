"""Pools: environments that step together, as sources make them."""
