"""Amounts as people read them, in the unit that suits their size; only zero itself reads as zero."""

import math


def describe_bytes(size_bytes: float, digits: int = 2) -> str:
    """Returns text such as `512 B`, `1.50 KiB`, `20.00 MiB`."""
    power = 0
    while round(abs(size_bytes), digits) >= 1024 and power < 5:
        size_bytes, power = size_bytes / 1024, power + 1
    if power:
        return f"{size_bytes:,.{digits}f} {'KMGTP'[power - 1]}iB"
    return f"{describe_number(size_bytes, 0)} B"


def describe_amount(amount: float, unit: str, digits: int = 2) -> str:
    """Returns text such as `3.20 kFLOP`, `1.68 TFLOP` for the unit `FLOP`."""
    power = 0
    while round(abs(amount), digits) >= 1000 and power < 6:
        amount, power = amount / 1000, power + 1
    return f"{describe_number(amount, digits)} {['', *'kMGTPE'][power]}{unit}"


def describe_seconds(seconds: float, digits: int = 2) -> str:
    """Returns text such as `12.34 ms`, `5.00 us` or `0.50 ns`; seconds too are in ms, to be compared at a glance."""
    for size_s, unit in ((1e-3, "ms"), (1e-6, "us")):
        if seconds == 0 or round(seconds / size_s, digits) >= 1:
            return f"{seconds / size_s:,.{digits}f} {unit}"
    return f"{describe_number(seconds / 1e-9, digits)} ns"


def describe_number(value: float, digits: int = 2) -> str:
    """Returns text such as `12.34`; a number that would be rounded to zero keeps its first digit, as in `0.0003`."""
    text = f"{value:,.{digits}f}"
    if value == 0 or not math.isfinite(value) or float(text.replace(",", "")) != 0:
        return text
    needed = -math.floor(math.log10(abs(value)))
    return f"{value:.{needed}f}" if needed <= 6 else f"{value:.0e}"


def describe_share(share: float, digits: int = 0) -> str:
    """Returns text such as `12%`; `<1%` for a share that would be rounded to zero."""
    text = f"{share:.{digits}%}"
    least = 10.0 ** -(digits + 2)
    return text if share <= 0 or share >= least / 2 else f"<{least:.{digits}%}"
