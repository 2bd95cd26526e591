"""One episode: when it ends, what is judged, and what its contexts are made of (RLEF, sec. 2.1)."""

from __future__ import annotations

import pytest

from rlef_lightning.dialogue import Prompts
from rlef_lightning.errors import DataError
from rlef_lightning.types import CODECONTESTS_RULE, Episode, Limits, OutputRule, StopReason, Verdict

from .doubles import ScriptedEngine, ScriptedExecutor, ids_of, problem, program, text_of
from .playing import play_one

RIGHT, HALF, WRONG, TORN = program("right"), program("half"), program("wrong"), program("torn")
NO_CODE = "I do not know."


def judged(executor: ScriptedExecutor) -> list[tuple[str, bool]]:
    """Which programs were run, and whether on the private tests."""
    return [(call.code, call.private) for call in executor.calls]


def prompts_of(episode: Episode) -> list[tuple[int, ...]]:
    return [turn.prompt_token_ids for turn in episode.turns]


def test_the_first_public_pass_ends_the_episode_and_is_judged_on_the_private_tests() -> None:
    episode, engine, executor = play_one(WRONG, RIGHT, WRONG)
    assert episode.stop_reason is StopReason.PUBLIC_TESTS_PASSED
    assert [turn.code for turn in episode.turns] == ["wrong", "right"]
    assert judged(executor) == [("wrong", False), ("right", False), ("right", True)]
    assert len(engine.requests) == 2
    assert episode.solved


def test_a_public_pass_alone_is_not_solved() -> None:
    episode, _, executor = play_one(HALF)
    assert judged(executor) == [("half", False), ("half", True)]
    assert episode.private_report is not None
    assert episode.private_report.first_failure is Verdict.WRONG_ANSWER
    assert not episode.solved


def test_public_tests_all_run_and_private_ones_stop_at_the_first_failure() -> None:
    _, _, executor = play_one(RIGHT)
    assert [call.stop_at_first_failure for call in executor.calls] == [False, True]


def test_limits_and_rule_are_those_of_the_problem() -> None:
    assert problem("a").rule != CODECONTESTS_RULE
    _, _, executor = play_one(RIGHT)
    assert [(call.limits, call.rule) for call in executor.calls] == [
        (Limits(cpu_s=3.0), OutputRule(ignore_case=True))
    ] * 2


@pytest.mark.parametrize("turn_limit", [1, 2, 3, 5])
def test_the_turn_limit_ends_the_episode_unjudged_in_private(turn_limit: int) -> None:
    episode, engine, executor = play_one(WRONG, turn_limit=turn_limit)
    assert episode.stop_reason is StopReason.TURN_LIMIT
    assert len(episode.turns) == len(engine.requests) == turn_limit
    assert judged(executor) == [("wrong", False)] * turn_limit
    assert episode.private_report is None
    assert not episode.solved


def test_a_pass_in_the_last_turn_is_a_pass() -> None:
    episode, _, _ = play_one(WRONG, WRONG, RIGHT)
    assert episode.stop_reason is StopReason.PUBLIC_TESTS_PASSED
    assert episode.solved


def test_every_turn_but_the_last_is_told_something() -> None:
    episode, _, _ = play_one(WRONG, NO_CODE, WRONG)
    feedback = [turn.feedback for turn in episode.turns]
    assert feedback[0] is not None
    assert feedback[0].count("Test 1: wrong output.\nInput:\ninput-of-a\n") == 1
    assert "said by wrong" in feedback[0]
    assert feedback[1] == Prompts().render("no_code")
    assert feedback[2] is None


def test_a_passing_turn_is_told_nothing() -> None:
    episode, _, _ = play_one(RIGHT)
    assert [turn.feedback for turn in episode.turns] == [None]


def test_no_code_runs_nothing() -> None:
    episode, _, executor = play_one(NO_CODE, RIGHT)
    assert (episode.turns[0].code, episode.turns[0].public_report) == (None, None)
    assert not episode.turns[0].has_valid_code
    assert judged(executor) == [("right", False), ("right", True)]


def test_no_code_in_the_last_turn_has_no_private_report() -> None:
    episode, _, executor = play_one(WRONG, NO_CODE, turn_limit=2)
    assert judged(executor) == [("wrong", False)]
    assert episode.private_report is None
    assert not episode.solved


def test_a_program_that_does_not_compile_is_told_and_tried_again() -> None:
    episode, _, _ = play_one(TORN, RIGHT)
    assert not episode.turns[0].has_valid_code
    assert episode.turns[0].feedback is not None
    assert episode.solved


def test_private_tests_never_reach_the_engine() -> None:
    episode, engine, _ = play_one(WRONG, HALF, RIGHT)
    assert len(episode.turns) == 2
    assert not any("SECRET" in text_of(prompt) for prompt, _, _ in engine.requests)


def test_token_in_token_out() -> None:
    episode, engine, _ = play_one(WRONG, NO_CODE, RIGHT)
    assert prompts_of(episode) == [prompt for prompt, _, _ in engine.requests]
    for turn, later in zip(episode.turns, episode.turns[1:], strict=False):
        past = turn.prompt_token_ids + turn.completion.token_ids
        assert later.prompt_token_ids[: len(past)] == past
        # What follows is the feedback and the opening of the next response, and nothing else.
        bridge = text_of(later.prompt_token_ids[len(past) :])
        assert bridge == f"\n<|im_start|>user\n{turn.feedback}<|im_end|>\n<|im_start|>assistant\n"


def test_turns_keep_what_was_sampled() -> None:
    episode, _, _ = play_one(WRONG, NO_CODE, RIGHT)
    assert [turn.response for turn in episode.turns] == [WRONG, NO_CODE, RIGHT]
    for turn in episode.turns:
        assert turn.completion.token_ids == ids_of(turn.response + "<|im_end|>")
        assert turn.completion.policy_version == 7
        assert len(turn.completion.logprobs) == len(turn.completion.token_ids)


def test_a_response_cut_in_its_program_holds_no_code() -> None:
    # "```", "python", a line break and the first two letters: the fence is never closed.
    count = len(ids_of("```python\nwr"))
    episode, _, executor = play_one(WRONG, turn_limit=1, max_response_tokens=count)
    assert episode.turns[0].completion.finish_reason == "length"
    assert episode.turns[0].code is None
    assert executor.calls == []


def test_the_context_must_hold_the_next_prompt_and_a_whole_response() -> None:
    unlimited, _, _ = play_one(WRONG)
    second, third = (len(prompt) for prompt in prompts_of(unlimited)[1:])
    # Room for the second prompt and 64 tokens to the token, one token less, and likewise the third.
    turns = {second + 63: 1, second + 64: 2, third + 63: 2, third + 64: 3}
    for limit, count in turns.items():
        episode, engine, _ = play_one(WRONG, max_context_tokens=limit)
        assert len(episode.turns) == len(engine.requests) == count
        assert episode.stop_reason is (StopReason.CONTEXT_LIMIT if count < 3 else StopReason.TURN_LIMIT)
        assert episode.turns[-1].feedback is None
        assert all(turn.feedback is not None for turn in episode.turns[:-1])
        assert episode.private_report is None


def test_a_pass_at_the_end_of_the_context_is_a_pass() -> None:
    first = len(prompts_of(play_one(WRONG)[0])[0])
    episode, _, _ = play_one(RIGHT, max_context_tokens=first + 64)
    assert episode.stop_reason is StopReason.PUBLIC_TESTS_PASSED
    assert episode.solved


def test_a_first_prompt_that_does_not_fit_is_an_error_that_names_the_numbers() -> None:
    first = len(prompts_of(play_one(WRONG)[0])[0])
    with pytest.raises(
        DataError, match=rf"problem 'a' has {first} tokens.*64 tokens.*of {first + 63}: raise"
    ):
        play_one(WRONG, max_context_tokens=first + 63)


def test_the_engine_is_asked_with_the_settings() -> None:
    _, engine, _ = play_one(WRONG, max_response_tokens=40)
    assert {sampling.max_response_tokens for _, sampling, _ in engine.requests} == {40}


def test_doubles_fulfil_the_protocols() -> None:
    from rlef_lightning.execution import Executor
    from rlef_lightning.generation import Engine

    members = {name for name in vars(Engine) if not name.startswith("_")}
    assert {"submit", "step", "abort"} <= members
    engine = ScriptedEngine(lambda prompt, turn: "")
    assert all(hasattr(engine, name) for name in members)
    assert isinstance(ScriptedExecutor(), Executor)
