"""Measures the stages of a run, alone and together."""
