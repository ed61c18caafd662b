"""A ring whose devices are those of several processes."""

import pytest

from tests.multihost.jobs import Member, free_address, job
from tests.replay.rings import BATCHES, KINDS


@pytest.mark.parametrize(
    "kind", ["recurrent", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("transitions", "uniform"))]
)
def test_two_processes_draw_bit_for_bit_what_one_draws(kind):
    """The same environments, starts and probabilities in every update, whose priorities follow from what was drawn."""
    alone = Member(free_address(), 1, 0, 300, "draw", kind)
    try:
        with job(2, "draw", kind) as members:
            drawn = [member.wait_for("drawn") for member in (alone, *members)]
    finally:
        alone.kill()
    assert drawn[1] == drawn[2]
    for number, (one, two) in enumerate(zip(*drawn[:2], strict=True)):
        assert one == two, f"update {number}"
    assert [len(update["slot"]) for update in drawn[0]] == [BATCHES] * 6
    assert any(drawn[0][5]["bits"][0])
    if KINDS[kind].priority_exponent:  # Priorities that were written have decided what was drawn after them.
        assert len(set(drawn[0][5]["bits"][0])) > 3
