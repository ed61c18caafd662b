"""A ring whose devices are those of several processes."""

import pytest

from tests.multihost.jobs import job
from tests.replay.rings import BATCHES, KINDS, draw_everywhere


@pytest.mark.parametrize(
    "kind", ["recurrent", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("transitions", "uniform"))]
)
def test_two_processes_draw_bit_for_bit_what_one_draws(kind):
    """The same environments, starts and probabilities in every update, whose priorities follow from what was drawn."""
    with job(2, "draw", kind) as members:
        alone = draw_everywhere(kind, devices=1)
        first, second = (member.wait_for("drawn") for member in members)
    assert first == second
    for number, (one, two) in enumerate(zip(alone, first, strict=True)):
        assert one == two, f"update {number}"
    assert [len(update["slot"]) for update in alone] == [BATCHES] * 6
    assert all(alone[-1]["bits"][0])
    if KINDS[kind].priority_exponent:  # Priorities that were written decide what is drawn after them.
        assert len(set(alone[-1]["bits"][0])) > 3
