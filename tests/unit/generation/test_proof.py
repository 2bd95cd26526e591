"""The proof after each weight sync: the largest difference, and no number that is none."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.errors import EngineError
from rlef_lightning.generation.proof import check_parity, probe_sequences

ENGINE = [[-1.0, -2.0], [-0.5]]
TRAINER = [[-1.0, -2.25], [-0.375]]  # differences 0, 0.25 and 0.125

rows = st.lists(st.lists(st.floats(-30, 0), min_size=1, max_size=4), min_size=1, max_size=4)


def test_the_largest_difference_by_hand() -> None:
    assert check_parity(ENGINE, TRAINER, tolerance=0.25) == 0.25
    assert check_parity(TRAINER, ENGINE, tolerance=0.25) == 0.25


def test_equal_numbers_differ_by_nothing() -> None:
    assert check_parity(ENGINE, ENGINE, tolerance=0.0) == 0.0


def test_a_difference_is_named_with_its_place_both_numbers_and_the_tolerance() -> None:
    with pytest.raises(EngineError) as failure:
        check_parity(ENGINE, TRAINER, tolerance=0.2)
    # The second log-probability of a sequence is that of its third token, number 2 from 0.
    for part in ("probe 0, token 2 ", "-2.000000", "-2.250000", "2.50e-01", "tolerance of 2e-01"):
        assert part in str(failure.value)
    assert "data.parity_tolerance" in str(failure.value)


@given(rows, st.floats(0.001, 1))
def test_a_shift_of_everything_is_found(engine: list[list[float]], shift: float) -> None:
    trainer = [[number + shift for number in row] for row in engine]
    largest = check_parity(engine, trainer, tolerance=2.0)
    assert largest == pytest.approx(shift, rel=1e-9)
    with pytest.raises(EngineError):
        check_parity(engine, trainer, tolerance=0.9 * shift)


@given(rows, st.data())
def test_a_nan_is_refused_wherever_it_stands(engine: list[list[float]], data: st.DataObject) -> None:
    trainer = [list(row) for row in engine]
    side = data.draw(st.sampled_from([engine, trainer]))
    row = data.draw(st.integers(0, len(engine) - 1))
    column = data.draw(st.integers(0, len(engine[row]) - 1))
    side[row][column] = math.nan
    with pytest.raises(EngineError, match=rf"probe {row}, token {column + 1} .*nan"):
        check_parity(engine, trainer, tolerance=1e9)


def test_an_infinite_difference_is_refused() -> None:
    with pytest.raises(EngineError, match="-inf"):
        check_parity([[-1.0, -math.inf]], [[-1.0, -1.0]], tolerance=1e9)


@pytest.mark.parametrize("trainer", [[[-1.0, -2.0]], [[-1.0, -2.0], []]])
def test_lists_of_unequal_length_are_refused(trainer: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        check_parity(ENGINE, trainer, tolerance=1e9)


@given(st.integers(3, 5000), st.sets(st.integers(0, 5000), max_size=2), st.integers(1, 5), st.integers(1, 60))
def test_probes_are_ordinary_tokens(vocabulary: int, special: set[int], count: int, length: int) -> None:
    probe = probe_sequences(vocabulary, sorted(special), count, length)
    assert [len(ids) for ids in probe] == [length] * count
    assert all(0 <= token < vocabulary and token not in special for ids in probe for token in ids)


def test_probes_are_spread_over_the_vocabulary() -> None:
    tokens = {token for ids in probe_sequences(1000, [0, 1, 2]) for token in ids}
    assert len(tokens) > 100  # of 4 * 48 = 192 draws from 997, about 17 are repetitions
    assert min(tokens) < 100
    assert max(tokens) > 900


def test_probes_are_the_same_in_every_process() -> None:
    code = "from rlef_lightning.generation.proof import probe_sequences as p; print(p(1000, [0, 7]))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{probe_sequences(1000, [0, 7])}\n"}
