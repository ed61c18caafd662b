"""How experience is generated and reaches the learner: unrolls, actor threads, hand-off, transfer and schedule."""
