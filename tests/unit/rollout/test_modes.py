"""Each way to play that a config can name: what the model is told, how many turns it has, what is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rlef_lightning.dialogue import Prompts
from rlef_lightning.evaluation import EVALUATION_SAMPLING, Evaluation
from rlef_lightning.metrics import dialogue_metrics
from rlef_lightning.rollout import Collection, PlaySettings
from rlef_lightning.types import Sampling, StopReason

from .doubles import ScriptedEngine, always, dialogues, ids_of, program, text_of
from .playing import collect, play_one

NAMES = ("p0", "p1", "p2")
RIGHT, HALF, WRONG = program("right"), program("half"), program("wrong")
AGAIN = Prompts().render("no_feedback")
BLIND = PlaySettings(feedback="none")


def played(settings: PlaySettings, *answers: str) -> tuple[Collection, ScriptedEngine]:
    engine = ScriptedEngine(dialogues(always(NAMES, *answers)))
    return collect(engine, NAMES, settings=settings), engine


def told(collection: Collection) -> set[tuple[str | None, ...]]:
    return {tuple(turn.feedback for turn in episode.turns) for episode in collection.episodes}


# ---- training and evaluation ------------------------------------------------------------------------


def test_training_draws_from_the_model_itself() -> None:
    _, engine = played(PlaySettings(), WRONG)
    assert {sampling for _, sampling, _ in engine.requests} == {Sampling(temperature=1.0, top_p=1.0)}


def test_evaluation_draws_as_the_paper_does_and_so_many_samples() -> None:
    evaluation = Evaluation(play=PlaySettings(samples_per_problem=4, sampling=EVALUATION_SAMPLING), n=1, k=3)
    collection, engine = played(evaluation.play, WRONG)
    drawn = {(sampling.temperature, sampling.top_p) for _, sampling, _ in engine.requests}
    assert drawn == {(0.2, 0.95)}
    assert [episode.sample_index for episode in collection.episodes] == [0, 1, 2, 3] * 3
    assert len({seed for _, _, seed in engine.requests}) == 3 * 4 * 3


@pytest.mark.parametrize("turn_limit", range(1, 11))
def test_turn_limits_from_one_to_ten(turn_limit: int) -> None:
    collection, engine = played(PlaySettings(turn_limit=turn_limit), WRONG)
    assert [len(episode.turns) for episode in collection.episodes] == [turn_limit] * 3
    assert len(engine.requests) == 3 * turn_limit
    assert {episode.stop_reason for episode in collection.episodes} == {StopReason.TURN_LIMIT}


def test_independent_samples_share_nothing_but_the_statement() -> None:
    collection, engine = played(PlaySettings(turn_limit=1, samples_per_problem=5), WRONG)
    assert told(collection) == {(None,)}
    prompts = {prompt for prompt, _, _ in engine.requests}
    assert len(prompts) == 3
    assert len({seed for _, _, seed in engine.requests}) == 3 * 5


def test_samples_of_a_problem_are_asked_for_one_after_the_other() -> None:
    """So that they find the prompt in the engine's prefix cache, or are computed together with it."""
    _, engine = played(PlaySettings(turn_limit=1, samples_per_problem=5), WRONG)
    prompts = [prompt for prompt, _, _ in engine.requests]
    assert [prompts[i : i + 5].count(prompts[i]) for i in (0, 5, 10)] == [5, 5, 5]


# ---- no feedback ------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [(WRONG,), (RIGHT,), ("I do not know.",), (HALF, RIGHT, WRONG)])
def test_without_feedback_nothing_is_told_whatever_the_program_did(answers: Sequence[str]) -> None:
    collection, _ = played(BLIND, *answers)
    assert told(collection) == {(AGAIN, AGAIN, None)}


def test_without_feedback_an_episode_has_all_its_turns_and_the_last_program_decides() -> None:
    collection, _ = played(BLIND, RIGHT, WRONG, RIGHT)
    assert {len(episode.turns) for episode in collection.episodes} == {3}
    assert {episode.stop_reason for episode in collection.episodes} == {StopReason.TURN_LIMIT}
    assert all(episode.solved for episode in collection.episodes)
    lost, _ = played(BLIND, RIGHT, RIGHT, WRONG)
    assert not any(episode.solved or episode.private_report for episode in lost.episodes)


def test_without_feedback_no_test_reaches_the_model() -> None:
    _, engine = played(BLIND, WRONG)
    shown = [text_of(prompt) for prompt, _, _ in engine.requests]
    assert not any("input-of-" in text or "said by" in text for text in shown)
    # That it could: the same words with true feedback.
    _, engine = played(PlaySettings(), WRONG)
    assert any("input-of-" in text_of(prompt) for prompt, _, _ in engine.requests)


@pytest.mark.parametrize("feedback", ["own", "random"])
def test_with_feedback_a_public_pass_ends_the_episode(feedback: str) -> None:
    script = dialogues(always(NAMES[:2], WRONG) | {"p2": [RIGHT]})
    settings = PlaySettings(feedback=feedback)  # type: ignore[arg-type]
    collection = collect(ScriptedEngine(script), NAMES, settings=settings)
    assert [len(episode.turns) for episode in collection.episodes] == [3, 3, 1]


# ---- responses that were cut ---------------------------------------------------------------------------

WHOLE = program("right") + "\nand so on and on"
ROOM = len(ids_of(program("right") + "\nand"))


def test_a_cut_response_has_no_valid_code_even_if_its_program_is_whole() -> None:
    episode, _, executor = play_one(WHOLE, max_response_tokens=ROOM)
    assert [turn.completion.finish_reason for turn in episode.turns] == ["length"] * 3
    assert [turn.code for turn in episode.turns] == [None] * 3
    assert not any(turn.has_valid_code for turn in episode.turns)
    assert episode.turns[0].feedback == Prompts().render("no_code")
    assert executor.calls == []


def test_a_cut_response_may_be_read_as_it_stands() -> None:
    settings = PlaySettings(cut_responses="read", sampling=Sampling(max_response_tokens=ROOM))
    collection, _ = played(settings, WHOLE)
    assert all(episode.solved for episode in collection.episodes)
    assert {episode.turns[0].completion.finish_reason for episode in collection.episodes} == {"length"}


def test_a_cut_turn_is_closed_before_the_next_message() -> None:
    episode, _, _ = play_one(WHOLE, max_response_tokens=ROOM)
    first, second = episode.turns[:2]
    past = first.prompt_token_ids + first.completion.token_ids
    assert second.prompt_token_ids[: len(past)] == past
    assert text_of(second.prompt_token_ids[len(past) :]).startswith("<|im_end|>\n<|im_start|>user\n")


def test_endings_are_counted() -> None:
    cut, _, _ = play_one(WHOLE, max_response_tokens=ROOM, turn_limit=2)
    unlimited, _, _ = play_one(WRONG)
    room = len(unlimited.turns[1].prompt_token_ids) + 63
    full, _, _ = play_one(WRONG, max_context_tokens=room)
    solved, _, _ = play_one(RIGHT)
    metrics = dialogue_metrics(turn_limit=2)
    metrics.update([cut, full, solved])
    found = metrics.compute()
    # Turns: two cut ones, one before the context was full, one that passed.
    assert found["cut_responses"] == 0.5
    names = ("turn_limit", "context_limit", "public_tests_passed")
    assert [found[f"ended/{name}"] for name in names] == [pytest.approx(1 / 3)] * 3


# ---- thoughts ------------------------------------------------------------------------------------------

DRAFT = f"<think>\n{program('wrong')}\n</think>\n{program('right')}"


@pytest.mark.parametrize(
    ("mark", "answer", "solved"),
    [
        ("</think>", DRAFT, True),
        (None, DRAFT, False),
        ("", DRAFT, False),
        ("</think>", f"<think>{program('right')}", False),  # it never came to an answer
    ],
)
def test_the_program_is_looked_for_after_the_thoughts(mark: str | None, answer: str, solved: bool) -> None:
    collection, _ = played(PlaySettings(answer_after=mark), answer)
    assert {episode.solved for episode in collection.episodes} == {solved}
    codes = {turn.code for episode in collection.episodes for turn in episode.turns}
    assert codes == ({None} if answer != DRAFT else {"right"} if solved else {"wrong"})
