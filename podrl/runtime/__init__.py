"""One process on its machine: XLA's settings, and how threads wait, are watched and end."""
