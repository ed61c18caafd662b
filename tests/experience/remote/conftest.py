"""What tests of environment workers share."""

import pytest

from tests.experience.remote.places import Place


@pytest.fixture
def place(tmp_path):
    place = Place(f"unix:{tmp_path}/s")
    with place.server:
        yield place
