"""Recorded trajectories on disk: writer, reader, samplers that are pure functions of (seed, update), imports."""
