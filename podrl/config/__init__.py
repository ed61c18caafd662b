"""A run's configuration: the sections and their keys, which values they take, and how command lines are read."""
