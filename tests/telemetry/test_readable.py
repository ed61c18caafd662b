import pytest

from podrl.telemetry.readable import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (9060, "2 h 31 min"),
        (100_800, "1 d 4 h"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
