"""Episode -> TokenSequence (to be scored); ScoredEpisode -> TrainingSample (to be trained on).

All turns of an episode are one token sequence, read off token by token: nothing is tokenised here.
Does not build tensors (packing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from rlef_lightning.learning.advantages import TurnLogprobs, check_counts
from rlef_lightning.types import ActionLevel, Episode, ScoredEpisode, TrainingSample, Turn, TurnSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """One episode's tokens and where its responses lie: all that a forward pass needs.

    Example: TokenSequence(token_ids=(5, 6, 7, 8), spans=((2, 4),)) for a prompt 5 6, a response 7 8
    """

    token_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """(start, stop) of each response; `start - 1` is the prompt's last token, where V is read."""


def episode_sequence(episode: Episode) -> TokenSequence:
    """The last turn's prompt and completion, which contain all earlier turns.

    Raises ValueError when a prompt does not continue the prompt and completion before it: then the
    probabilities at sampling and at training would be those of different contexts.
    """
    before: tuple[int, ...] = ()
    spans: list[tuple[int, int]] = []
    for number, turn in enumerate(episode.turns):
        _check_continues(episode.problem_id, number, turn, before)
        before = turn.prompt_token_ids + turn.completion.token_ids
        spans.append((len(turn.prompt_token_ids), len(before)))
    return TokenSequence(token_ids=before, spans=tuple(spans))


def to_training_sample(
    scored: ScoredEpisode,
    policy_logprobs: TurnLogprobs,
    reference_logprobs: TurnLogprobs | None = None,
    action_level: ActionLevel = "turn",
) -> TrainingSample:
    """One sequence with its spans' advantages, values and targets, and the log-probabilities of its tokens.

    `policy_logprobs[t][i]` is by the trainer's weights at collection (pi_old), for token i of response t;
    `reference_logprobs` are kept only if they are given, for a KL in the loss. With "token" every response
    token is a span of its own.
    Raises ValueError like `episode_sequence`, and when counts of turns, tokens or actions differ.
    """
    sequence = episode_sequence(scored.episode)
    completions = [turn.completion for turn in scored.episode.turns]
    given = [policy_logprobs] if reference_logprobs is None else [policy_logprobs, reference_logprobs]
    check_counts("turns of the sample", len(completions), *given)
    for turn, completion in enumerate(completions):
        own = [logprobs[turn] for logprobs in given]
        check_counts("tokens of the response", len(completion.token_ids), completion.logprobs, *own)
    return TrainingSample(
        token_ids=sequence.token_ids,
        spans=_spans(_actions(sequence.spans, action_level), scored),
        behaviour_logprobs=tuple(chain.from_iterable(c.logprobs for c in completions)),
        policy_logprobs=tuple(chain.from_iterable(policy_logprobs)),
        reference_logprobs=tuple(chain.from_iterable(reference_logprobs or ())),
    )


def _actions(turns: Sequence[tuple[int, int]], level: ActionLevel) -> Sequence[tuple[int, int]]:
    if level == "turn":
        return turns
    return [(place, place + 1) for start, stop in turns for place in range(start, stop)]


def _spans(bounds: Sequence[tuple[int, int]], scored: ScoredEpisode) -> tuple[TurnSpan, ...]:
    check_counts("actions of the sample", len(bounds), scored.advantages, scored.values, scored.returns)
    parts = zip(bounds, scored.advantages, scored.values, scored.returns, strict=True)
    return tuple(
        TurnSpan(start=start, stop=stop, advantage=advantage, value=value, value_target=target)
        for (start, stop), advantage, value, target in parts
    )


def _check_continues(problem_id: str, number: int, turn: Turn, before: tuple[int, ...]) -> None:
    prompt = turn.prompt_token_ids
    if not prompt:
        raise ValueError(f"turn {number} of problem {problem_id!r} has an empty prompt: V has no place")
    if prompt[: len(before)] != before:
        same = zip(prompt, before, strict=False)
        first = next((i for i, (a, b) in enumerate(same) if a != b), min(len(prompt), len(before)))
        raise ValueError(
            f"turn {number} of problem {problem_id!r}: its prompt of {len(prompt)} tokens does not "
            f"continue the {len(before)} tokens before it (they part at token {first}); a dialogue "
            "must be token-in, token-out"
        )
