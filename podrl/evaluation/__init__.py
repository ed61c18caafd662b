"""Scores of an agent: whole episodes by the environment's own protocol."""
