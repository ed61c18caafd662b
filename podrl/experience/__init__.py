"""How experience is made and reaches the learner: unrolls, actor threads, hand-off, transfer, schedule."""
