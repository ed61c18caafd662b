"""Numbers and durations as people read them."""

import math


def duration(seconds: float) -> str:
    """Returns text such as `12.3 s`, `3 min 20 s`, `2 h 31 min`, `1 d 4 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def short_number(value: float) -> str:
    """Returns text such as `1.23`, `812.4`, `21,045`."""
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def short_rate(value: float) -> str:
    """Returns text such as `1,130`, `3.7`; a dash for NaN, when a run was too short to have a rate."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
