"""Amounts choose their unit."""

import pytest

from podrl.config.units import describe_amount, describe_bytes, describe_number, describe_seconds, describe_share


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (0.25, "0.2 B"),
        (512, "512 B"),
        (1536, "1.50 KiB"),
        (1024**2 - 1, "1.00 MiB"),
        (20 * 2**20, "20.00 MiB"),
        (16 * 2**30, "16.00 GiB"),
        (5000 * 2**50, "5,000.00 PiB"),
    ],
)
def test_sizes(size_bytes, text):
    assert describe_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.00 FLOP"), (3, "3.00 FLOP"), (3200, "3.20 kFLOP"), (999_999, "1.00 MFLOP"), (1.684e12, "1.68 TFLOP")],
)
def test_amounts(amount, text):
    assert describe_amount(amount, "FLOP") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 ms"), (1.5, "1,500.00 ms"), (9.99999e-4, "1.00 ms"), (5e-6, "5.00 us"), (5e-10, "0.50 ns")],
)
def test_durations(seconds, text):
    assert describe_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (12.345, "12.35"), (1234.5, "1,234.50"), (0.0003, "0.0003"), (-0.004, "-0.004"), (3e-9, "3e-09")],
)
def test_numbers_keep_a_digit(value, text):
    assert describe_number(value) == text


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0.0, 0, "0%"), (0.121, 0, "12%"), (0.002, 0, "<1%"), (0.002, 1, "0.2%"), (1e-6, 2, "<0.01%"), (1.0, 0, "100%")],
)
def test_shares_above_nothing_are_not_nothing(share, digits, text):
    assert describe_share(share, digits) == text
