"""How a batch becomes new parameters: one jitted, donated update over the learner mesh, and its cost."""
