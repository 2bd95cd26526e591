"""The metrics of dialogues on episodes whose numbers can be counted by hand."""

import pytest
from episodes import CRASH, OK, SLOW, WRONG, episode, failed, passed_public_only, solved, turn
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import chrf_score

from rlef_lightning.metrics import (
    ERROR_CLASSES,
    CodeChange,
    ErrorShares,
    MeanTurns,
    RepairRate,
    SolveRateByTurn,
    dialogue_metrics,
    edit_size,
    error_class,
)
from rlef_lightning.metrics.edit_size import chrf
from rlef_lightning.types import Verdict


def test_solve_rate_by_turn_counts_what_had_ended_solved() -> None:
    metric = SolveRateByTurn(turn_limit=3)
    metric.update([solved("a"), solved("a", 1), solved("b", 2), failed("b"), passed_public_only("b")])
    assert metric.compute() == {
        "solve_rate_turn_1": pytest.approx(1 / 5),
        "solve_rate_turn_2": pytest.approx(2 / 5),
        "solve_rate_turn_3": pytest.approx(3 / 5),
    }


def test_a_dialogue_longer_than_the_limit_is_named() -> None:
    with pytest.raises(ValueError, match="3 turns, more than turn_limit=2"):
        SolveRateByTurn(turn_limit=2).update([failed("a")])
    with pytest.raises(ValueError, match="got 0"):
        SolveRateByTurn(turn_limit=0)


def test_repair_rate_overall_and_by_class() -> None:
    metric = RepairRate()
    metric.update(
        [
            episode("a", [turn(OK, WRONG), turn(OK, OK)]),  # repaired
            episode("b", [turn(WRONG, CRASH), turn(CRASH), turn()]),  # twice not repaired
            episode("c", [turn(), turn(SLOW), turn(OK)]),  # no code, then a time limit, repaired
            episode("d", [turn(WRONG)]),  # no next turn: no chance to repair
        ]
    )
    assert metric.compute() == {
        "repair_rate": pytest.approx(2 / 5),
        "repair_rate/wrong_answer": pytest.approx(1 / 2),
        "repair_rate/runtime_error": 0.0,
        "repair_rate/time_limit": 1.0,
        "repair_rate/no_code": 0.0,
    }


def test_error_shares_are_of_all_turns() -> None:
    metric = ErrorShares()
    metric.update([episode("a", [turn(WRONG), turn(), turn(OK)]), episode("b", [turn(OK, SLOW)])])
    shares = metric.compute()
    assert set(shares) == {f"errors/{name}" for name in ERROR_CLASSES}
    assert {name: share for name, share in shares.items() if share} == {
        "errors/wrong_answer": 0.25,
        "errors/no_code": 0.25,
        "errors/time_limit": 0.25,
    }


def test_error_class_is_the_first_failure() -> None:
    assert error_class(turn(OK, OK)) is None
    assert error_class(turn()) == "no_code"
    assert error_class(turn(OK, SLOW, WRONG)) == "time_limit"
    assert error_class(turn(Verdict.SKIPPED, WRONG)) == "wrong_answer"
    with pytest.raises(ValueError, match="skipped"):
        error_class(turn(Verdict.SKIPPED))
    assert ERROR_CLASSES == (
        "wrong_answer",
        "runtime_error",
        "syntax_error",
        "time_limit",
        "memory_limit",
        "output_limit",
        "no_code",
    )


def test_code_change_compares_consecutive_programs() -> None:
    metric = CodeChange()
    same, other = turn(WRONG, code="abcdefgh"), turn(WRONG, code="xyz")
    metric.update([episode("a", [same, same, other]), episode("b", [same, turn(), same])])
    # Two pairs of programs: identical, and without a common character.
    assert metric.compute() == {"repeated_code": 0.5, "edit_size": 0.5}


def test_edit_size_by_hand() -> None:
    assert edit_size("ab", "ab") == 0.0
    assert edit_size("ab", "cd") == 1.0
    assert edit_size("", "ab") == 1.0
    # Single characters: precision and recall 2/3; pairs: 1 of 2; triples: none of 1; longer: none exist.
    assert edit_size("abc", "abd") == pytest.approx(1 - (2 / 3 + 1 / 2) / 6)


@given(st.text("abc =\n(", max_size=60), st.text("abc =\n(", max_size=60))
def test_chrf_is_torchmetrics_chrf(before: str, after: str) -> None:
    expected = chrf_score([after], [[before]], n_word_order=0).item()
    assert chrf(hypothesis=after, reference=before) == pytest.approx(expected, abs=1e-6)


def test_all_metrics_together_have_stable_names() -> None:
    metrics = dialogue_metrics(turn_limit=2)
    metrics.update([])
    assert metrics.compute() == {}  # nothing observed, nothing said
    metrics.update([solved("a", 1)])
    assert metrics.compute() == {
        "solve_rate_turn_1": 0.0,
        "solve_rate_turn_2": 1.0,
        "repair_rate": 1.0,
        "repair_rate/wrong_answer": 1.0,
        **{f"errors/{name}": 0.5 if name == "wrong_answer" else 0.0 for name in ERROR_CLASSES},
        "mean_turns": 2.0,
        "cut_responses": 0.0,
        "ended/public_tests_passed": 1.0,
        "ended/turn_limit": 0.0,
        "ended/context_limit": 0.0,
        "repeated_code": 1.0,
        "edit_size": 0.0,
    }


def test_mean_turns_and_forward() -> None:
    metric = MeanTurns()
    assert metric([failed("a")]) == {"mean_turns": 3.0}  # the value of this call alone
    metric.update([solved("a")])
    assert metric.compute() == {"mean_turns": 2.0}
