"""What counts as flat."""

from __future__ import annotations

from tools.bench.memory import growth_bytes


def test_what_is_taken_while_warming_up_is_no_growth() -> None:
    assert growth_bytes([10, 50, *[100] * 8]) == 0


def test_a_leak_is_growth() -> None:
    # Ten epochs, 5 more in each: means of epochs 2 and 3, and of 8 and 9, which are six epochs apart.
    assert growth_bytes([5 * epoch for epoch in range(10)]) == 30


def test_memory_that_is_given_back_is_negative() -> None:
    assert growth_bytes([9, 9, 9, 9, 9, 9, 9, 9, 4, 4]) == -5
