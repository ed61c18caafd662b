"""A group of environments that are opened more than once."""

import numpy as np

from podrl.experience.remote.group import Group
from tests.experience.remote.test_slots import INDICES


class Pool:
    """As far as a group uses it."""

    opening_s = 10.0

    def close(self):
        pass


def test_an_answer_of_an_earlier_opening_comes_too_late():
    group = Group(number=0, env_index=np.asarray(INDICES[0], np.uint32))
    for _ in range(2):
        group.end()
        group.begin(Pool(), [1, 2])
    group.note_answer(1)
    assert not group.has_answer
    group.note_answer(2)
    assert group.has_answer
