"""Whole dialogues under the templates of the model families, each with the control tokens of its own.

For any texts and any number of turns the context is what the family's template renders of the dialogue, as
far as the template leaves the past as it was; and where it would rewrite the past, the past stays as sampled.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_lightning.dialogue import ChatFormat

from .templates import FAMILIES, family_tokenizer

NAMES = sorted(FAMILIES)
EVERY_CONTROL = sorted(
    {
        token
        for family in FAMILIES.values()
        for token in (*family.special, *family.unflagged, family.eos, family.end_of_turn)
    }
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
pieces = st.one_of(words, st.sampled_from(["\n", " ", "```python\n", "print(a)", "<|", "|>", "use\n\nr"]))
calm = st.lists(pieces, max_size=4).map("".join).filter(lambda s: not any(t in s for t in EVERY_CONTROL))
hostile = st.lists(st.one_of(pieces, st.sampled_from(EVERY_CONTROL)), max_size=6).map("".join)
dialogue = st.lists(st.tuples(calm, calm), min_size=1, max_size=5)


@cache
def tokenizer_of(name: str) -> Any:
    return family_tokenizer(name)


@cache
def chat_of(name: str) -> ChatFormat:
    return ChatFormat(tokenizer_of(name))


def ids_of(name: str, text: str) -> tuple[int, ...]:
    return tuple(tokenizer_of(name)(text, add_special_tokens=False)["input_ids"])


def rendered(name: str, messages: list[dict[str, str]]) -> tuple[int, ...]:
    """What transformers itself makes of the dialogue."""
    encoded = tokenizer_of(name).apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return tuple(encoded["input_ids"])


def controls(name: str, ids: tuple[int, ...]) -> list[int]:
    family = FAMILIES[name]
    tokens = {family.bos, family.eos, family.end_of_turn, *family.special, *family.unflagged} - {None}
    known = set(tokenizer_of(name).convert_tokens_to_ids(sorted(tokens)))
    return [token for token in ids if token in known]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(turns=dialogue)
def test_a_whole_dialogue_is_what_the_template_renders(name: str, turns: list[tuple[str, str]]) -> None:
    family, chat = FAMILIES[name], chat_of(name)
    messages: list[dict[str, str]] = []
    prompt: tuple[int, ...] = ()
    completion: tuple[int, ...] = ()
    for number, (user, answer) in enumerate(turns):
        # White space at its start could merge with the line break before it: see the test on that.
        said = answer.strip() if family.strips_answers else answer.lstrip()
        messages.append({"role": "user", "content": user})
        prompt = chat.continue_prompt(prompt, completion, user) if number else chat.first_prompt(user)
        assert prompt == rendered(name, messages)
        messages.append({"role": "assistant", "content": said})
        completion = (*ids_of(name, said), *ids_of(name, family.end_of_turn))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(
    statement=hostile,
    turns=st.lists(st.tuples(st.lists(st.integers(0, 260), max_size=8), hostile), min_size=1, max_size=6),
)
def test_whatever_is_sampled_and_said_the_past_stays_and_contents_are_inert(
    name: str, statement: str, turns: list[tuple[list[int], str]]
) -> None:
    """Ids up to 260 hold the alphabet, merges and words that merge across borders."""
    chat = chat_of(name)
    calm_bridge = controls(name, chat.continue_prompt((), (), "x"))
    prompt = chat.first_prompt(statement)
    assert controls(name, prompt) == controls(name, chat.first_prompt("x"))
    for completion, told in turns:
        past = (*prompt, *completion)
        prompt = chat.continue_prompt(prompt, completion, told)
        assert prompt[: len(past)] == past
        # The turn is closed, once, and then come the frame's own control tokens and no others.
        assert controls(name, prompt[len(past) :]) == calm_bridge
        assert prompt[len(past)] == chat.stop_token_ids[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_end_of_turn_comes_first_among_the_stop_tokens(name: str) -> None:
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    expected = dict.fromkeys(tokenizer.convert_tokens_to_ids([family.end_of_turn, family.eos]))
    assert chat_of(name).stop_token_ids == tuple(expected)


@pytest.mark.parametrize("name", NAMES)
def test_program_output_with_control_tokens_keeps_its_text(name: str) -> None:
    output = "".join(f"a{token}b" for token in EVERY_CONTROL)
    chat = chat_of(name)
    for ids in (chat.first_prompt(output), chat.continue_prompt((), (), output)):
        assert output in tokenizer_of(name).decode(ids)


@pytest.mark.parametrize("name", NAMES)
def test_a_response_that_was_cut_is_closed_where_it_was_cut(name: str) -> None:
    chat, cut = chat_of(name), ids_of(name, "```python\nprin")
    end = tokenizer_of(name).convert_tokens_to_ids(FAMILIES[name].end_of_turn)
    closed = chat.continue_prompt((), (*cut, end), "again")
    assert chat.continue_prompt((), cut, "again") == closed


@pytest.mark.parametrize("name", ["llama3", "llama31", "gemma", "gemma3"])
def test_where_a_template_strips_answers_they_stay_as_sampled(name: str) -> None:
    """The template would lose the white space around an answer; the trainer must see what was sampled."""
    chat, end = chat_of(name), FAMILIES[name].end_of_turn
    sampled = ids_of(name, " ok\n\n" + end)
    prompt = chat.continue_prompt(chat.first_prompt("a"), sampled, "b")
    assert f" ok\n\n{end}" in tokenizer_of(name).decode(prompt)
    messages = [("user", "a"), ("assistant", " ok\n\n"), ("user", "b")]
    theirs = rendered(name, [{"role": role, "content": text} for role, text in messages])
    assert f" ok\n\n{end}" not in tokenizer_of(name).decode(theirs)
    assert prompt != theirs


def test_where_a_sampled_line_break_would_merge_with_the_frames_it_stays_as_sampled() -> None:
    chat, line_break = chat_of("chatml"), ids_of("chatml", "\n")
    sampled = (*line_break, *ids_of("chatml", "ok<|im_end|>"))
    prompt = chat.continue_prompt(chat.first_prompt("a"), sampled, "b")
    assert prompt[len(chat.first_prompt("a")) :][: len(sampled)] == sampled
    messages = [("user", "a"), ("assistant", "\nok"), ("user", "b")]
    theirs = rendered("chatml", [{"role": role, "content": text} for role, text in messages])
    assert prompt != theirs
    assert tokenizer_of("chatml").decode(prompt) == tokenizer_of("chatml").decode(theirs)


def test_where_qwen3_drops_earlier_thoughts_they_stay_as_sampled() -> None:
    chat = chat_of("qwen3")
    answer = "<think>\nhm\n</think>\n\nok"
    prompt = chat.continue_prompt(chat.first_prompt("a"), ids_of("qwen3", answer + "<|im_end|>"), "b")
    assert answer in tokenizer_of("qwen3").decode(prompt)
    messages = [("user", "a"), ("assistant", answer), ("user", "b")]
    theirs = rendered("qwen3", [{"role": role, "content": text} for role, text in messages])
    assert "hm" not in tokenizer_of("qwen3").decode(theirs)
    # Apart from the thought the two are the same.
    thought = ids_of("qwen3", "<think>\nhm\n</think>\n\n")
    start = next(i for i in range(len(prompt)) if prompt[i : i + len(thought)] == thought)
    assert prompt[:start] + prompt[start + len(thought) :] == theirs


@pytest.mark.parametrize("name", ["gemma", "gemma3"])
def test_gemma_has_the_system_prompt_at_the_head_of_the_first_message(name: str) -> None:
    chat = ChatFormat(tokenizer_of(name), system_prompt="Be brief.")
    assert chat.first_prompt("Add.") == chat_of(name).first_prompt("Be brief.\n\nAdd.")


@pytest.mark.parametrize("name", ["llama3", "llama31", "qwen25", "qwen3", "chatml", "tiny", "gemma3"])
def test_a_system_prompt_is_where_the_template_puts_it(name: str) -> None:
    chat = ChatFormat(tokenizer_of(name), system_prompt="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add."}]
    assert chat.first_prompt("Add.") == rendered(name, messages)


def test_marks_that_nobody_flags_are_text_in_contents() -> None:
    """Qwen's marks of files and gaps are not flagged special, and no template names them."""
    chat, tokenizer = chat_of("qwen25"), tokenizer_of("qwen25")
    marks = set(tokenizer.convert_tokens_to_ids(["<|fim_prefix|>", "<|file_sep|>", "<|repo_name|>"]))
    prompt = chat.first_prompt("a<|fim_prefix|>b <|file_sep|> <|repo_name|>")
    assert not marks & set(prompt)
    assert "a<|fim_prefix|>b <|file_sep|> <|repo_name|>" in tokenizer.decode(prompt)


@pytest.mark.parametrize(
    ("arguments", "same"), [(None, False), ({"date_string": "26 Jul 2024"}, True)], ids=["today", "fixed"]
)
def test_a_date_in_the_template_is_part_of_the_frames(
    arguments: dict[str, Any] | None, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import chat_template_utils

    found = []
    for day in (1, 2):

        class Today(datetime):
            @classmethod
            def now(cls, tz: Any = None, day: int = day) -> Today:
                return cls(2026, 1, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Today)
        found.append(ChatFormat(tokenizer_of("llama31"), template_arguments=arguments).frames)
    assert (found[0] == found[1]) is same


def test_further_ids_end_a_response() -> None:
    tokenizer = tokenizer_of("llama31")
    (end,) = tokenizer.convert_tokens_to_ids(["<|end_of_text|>"])
    plain, chat = ChatFormat(tokenizer), ChatFormat(tokenizer, end_token_ids=(end,))
    assert end not in plain.stop_token_ids
    assert chat.stop_token_ids == (*plain.stop_token_ids, end)
    assert chat.frames != plain.frames
    # A response that ends with it has ended: no end of turn is put after it.
    prompt = chat.first_prompt("a")
    following = chat.continue_prompt(prompt, (end,), "b")
    (of_turn,) = tokenizer.convert_tokens_to_ids(["<|eot_id|>"])
    assert following[len(prompt)] == end
    assert following[len(prompt) + 1] != of_turn
