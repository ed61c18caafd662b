"""One process on its machine: what XLA is told, and how threads wait, are watched and end."""
