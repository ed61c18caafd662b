"""Pure functions over arrays and pytrees: one topic per file, no state, no networks, no side effects."""
