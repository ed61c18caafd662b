"""A network and an algorithm that are not podrl's own; see docs/extending.md."""
