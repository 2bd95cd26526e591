"""Trained on is, id by id, what the engine saw and produced: any family, any ids, any number of turns."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
from dialogue.templates import FAMILIES, family_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_lightning.dialogue import ChatFormat, Prompts
from rlef_lightning.learning.samples import episode_sequence
from rlef_lightning.rollout import Collection, Collector, Pace, PlaySettings
from rlef_lightning.types import Completion, Sampling

from .doubles import ScriptedEngine, ScriptedExecutor, problem
from .playing import run

NAMES = ("p0", "p1")


@cache
def chat_of(family: str) -> ChatFormat:
    return ChatFormat(family_tokenizer(family))


class BabblingEngine(ScriptedEngine):
    """Draws ids of the whole vocabulary, control tokens too, of any length; remembers what it answered."""

    def __init__(self, chat: ChatFormat, vocabulary: int, seed: int, max_context_tokens: int) -> None:
        super().__init__(lambda prompt, turn: "", max_context_tokens=max_context_tokens)
        self._draw, self._stops, self._vocabulary = Random(seed), chat.stop_token_ids, vocabulary
        self.seen: dict[int, tuple[tuple[int, ...], Completion]] = {}

    def submit(self, prompt_token_ids, sampling: Sampling, seed: int):  # type: ignore[no-untyped-def]
        future = super().submit((), sampling, seed)
        ids = [self._draw.randrange(self._vocabulary) for _ in range(self._draw.randrange(12))]
        ids = [token for token in ids if token not in self._stops]
        ended = self._draw.random() < 0.7
        ids += [self._draw.choice(self._stops)] if ended or not ids else []
        answer = Completion(
            token_ids=tuple(ids),
            logprobs=tuple(-self._draw.random() for _ in ids),
            finish_reason="stop" if ended else "length",
            policy_version=7,
        )
        self._waiting[-1].answer = answer
        self.seen[seed] = (tuple(prompt_token_ids), answer)
        return future


def babble(
    family: str, seed: int, turn_limit: int, max_context_tokens: int
) -> tuple[Collection, BabblingEngine]:
    chat = chat_of(family)
    engine = BabblingEngine(chat, len(family_tokenizer(family)), seed, max_context_tokens)
    collector = Collector(engine, ScriptedExecutor(), chat, Prompts(), Pace())
    play = PlaySettings(
        turn_limit=turn_limit, samples_per_problem=2, sampling=Sampling(max_response_tokens=12)
    )
    return run(collector.collect([problem(name) for name in NAMES], play, seed)), engine


@pytest.mark.parametrize("family", sorted(FAMILIES))
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), turn_limit=st.integers(1, 10), room=st.integers(500, 4000))
def test_what_is_trained_on_is_what_the_engine_saw(
    family: str, seed: int, turn_limit: int, room: int
) -> None:
    collection, engine = babble(family, seed, turn_limit, room)
    asked = dict(engine.seen)
    for episode in collection.episodes:
        sequence = episode_sequence(episode)
        for turn, (start, stop) in zip(episode.turns, sequence.spans, strict=True):
            prompt, answer = next(
                pair for pair in asked.values() if pair == (turn.prompt_token_ids, turn.completion)
            )
            assert sequence.token_ids[:start] == prompt
            assert sequence.token_ids[start:stop] == answer.token_ids
        assert len(sequence.token_ids) <= room
    # And nothing that was sampled is left out.
    assert len(asked) == sum(len(episode.turns) for episode in collection.episodes)
