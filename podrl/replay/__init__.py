"""Pure functions of a replay that is a part of the learner's state, split over the learner's devices."""
