"""Contexts equal the chat template's own rendering, never change their past, and keep contents inert."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from rlef_lightning.dialogue import ChatFormat
from rlef_lightning.errors import ConfigError

from .templates import (
    CHATML,
    DEAF_TO_SYSTEM,
    END_OF_TURN,
    GEMMA,
    MISTRAL,
    QWEN3,
    SPECIAL_TOKENS,
    TEMPLATES,
    make_tokenizer,
)

USERS = ("Add a and b.\n\n1 <= a\n", "  Wrong: {a}\n", "Again.\n")
ANSWERS = ("```python\nprint(1)\n```", "Sorry.\n```python\nprint(a)\n```", "ok")
FRAMED = sorted(END_OF_TURN)

hostile_text = st.lists(
    st.one_of(
        st.text(max_size=8), st.sampled_from([*SPECIAL_TOKENS, "<think>", "\n", " ", "<|eot", "_id|>"])
    ),
    max_size=8,
).map("".join)


@cache
def tokenizer_of(name: str) -> Any:
    return make_tokenizer(TEMPLATES[name])


@cache
def format_of(name: str) -> ChatFormat:
    return ChatFormat(tokenizer_of(name))


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def reference_ids(tokenizer: Any, messages: list[dict[str, str]], **arguments: Any) -> tuple[int, ...]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
    return tuple(ids_of(tokenizer, text))


def control_ids(tokenizer: Any, ids: tuple[int, ...]) -> list[int]:
    """Special tokens, and those that only the template names: "<think>" of Qwen 3 is not flagged."""
    added = tokenizer.added_tokens_decoder
    control = {i for i, t in added.items() if t.special or t.content in tokenizer.chat_template}
    return [token for token in ids if token in control]


@pytest.mark.parametrize(
    ("name", "system"),
    [(name, None) for name in FRAMED]
    + [(name, "Be brief.") for name in FRAMED if name not in {"gemma", "mistral"}],
)
def test_three_turns_equal_the_template(name: str, system: str | None) -> None:
    tokenizer, chat = tokenizer_of(name), ChatFormat(tokenizer_of(name), system_prompt=system)
    messages = [] if system is None else [{"role": "system", "content": system}]
    prompt: tuple[int, ...] = ()
    completion: tuple[int, ...] = ()
    for turn, (user, answer) in enumerate(zip(USERS, ANSWERS, strict=True)):
        messages.append({"role": "user", "content": user})
        prompt = chat.continue_prompt(prompt, completion, user) if turn else chat.first_prompt(user)
        assert prompt == reference_ids(tokenizer, messages)
        completion = tuple(ids_of(tokenizer, answer + END_OF_TURN[name]))
        messages.append({"role": "assistant", "content": answer})


@pytest.mark.parametrize("name", FRAMED)
def test_the_end_of_turn_is_found(name: str) -> None:
    tokenizer = tokenizer_of(name)
    ids = {tokenizer.convert_tokens_to_ids(END_OF_TURN[name]), tokenizer.eos_token_id}
    assert set(format_of(name).stop_token_ids) == ids
    assert format_of(name).stop_token_ids[0] == tokenizer.convert_tokens_to_ids(END_OF_TURN[name])


@pytest.mark.parametrize("name", FRAMED)
def test_a_cut_completion_gets_its_end_of_turn(name: str) -> None:
    tokenizer, chat = tokenizer_of(name), format_of(name)
    prompt, cut = chat.first_prompt("x"), tuple(ids_of(tokenizer, "prin"))
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN[name])
    assert chat.continue_prompt(prompt, cut, "y") == chat.continue_prompt(prompt, (*cut, end), "y")
    assert chat.continue_prompt(prompt, (), "y")[len(prompt)] == end


def test_another_stop_token_is_kept_and_not_doubled() -> None:
    tokenizer, chat = tokenizer_of("chatml"), format_of("chatml")
    later = chat.continue_prompt((), (5, tokenizer.eos_token_id), "y")
    assert later[:2] == (5, tokenizer.eos_token_id)
    assert control_ids(tokenizer, later)[1:] == ids_of(tokenizer, "<|im_start|><|im_end|><|im_start|>")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@given(user=hostile_text, feedback=hostile_text, completion=st.lists(st.integers(0, 255), max_size=6))
def test_contents_are_inert_and_the_past_is_a_prefix(
    name: str, user: str, feedback: str, completion: list[int]
) -> None:
    tokenizer, chat = tokenizer_of(name), format_of(name)
    plain_first, plain_next = chat.first_prompt("x"), chat.continue_prompt((), (), "x")
    prompt = chat.first_prompt(user)
    later = chat.continue_prompt(prompt, completion, feedback)
    assert control_ids(tokenizer, prompt) == control_ids(tokenizer, plain_first)
    assert later[: len(prompt) + len(completion)] == (*prompt, *completion)
    bridge = later[len(prompt) + len(completion) :]
    assert control_ids(tokenizer, bridge) == control_ids(tokenizer, plain_next)


@given(text=hostile_text)
def test_hostile_contents_keep_their_text(text: str) -> None:
    tokenizer = tokenizer_of("chatml")
    ids = format_of("chatml").first_prompt(text)
    assert tokenizer.decode(ids) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_unflagged_control_tokens_of_the_template_are_inert_too() -> None:
    tokenizer = make_tokenizer(CHATML, unflagged=("<|im_start|>",))
    ids = ChatFormat(tokenizer).first_prompt("a<|im_start|>b")
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2


@pytest.mark.parametrize("template", [GEMMA, DEAF_TO_SYSTEM])
def test_a_template_without_system_role_gets_it_in_the_first_message(template: str) -> None:
    tokenizer = make_tokenizer(template)
    folded = ChatFormat(tokenizer, system_prompt="Be brief.").first_prompt("Add.")
    assert folded == ChatFormat(tokenizer).first_prompt("Be brief.\n\nAdd.")


def test_a_template_that_repeats_the_system_prompt_says_it_once() -> None:
    tokenizer = make_tokenizer(MISTRAL)
    chat = ChatFormat(tokenizer, system_prompt="Be brief.")
    later = chat.continue_prompt(chat.first_prompt("Add."), (), "Again.")
    assert tokenizer.decode(later) == "<|begin_of_text|>[INST]Be brief.\n\nAdd.[/INST]</s>[INST]Again.[/INST]"


def test_thoughts_of_earlier_turns_stay_as_sampled() -> None:
    tokenizer, chat = tokenizer_of("qwen3"), format_of("qwen3")
    completion = ids_of(tokenizer, "<think>\nhm\n</think>\n\nok<|im_end|>")
    later = chat.continue_prompt(chat.first_prompt("a"), completion, "b")
    assert "<think>\nhm\n</think>\n\nok<|im_end|>\n<|im_start|>user\nb" in tokenizer.decode(later)


def test_template_arguments_reach_the_template() -> None:
    tokenizer = make_tokenizer(QWEN3)
    chat = ChatFormat(tokenizer, template_arguments={"enable_thinking": False})
    expected = reference_ids(tokenizer, [{"role": "user", "content": "a"}], enable_thinking=False)
    assert chat.first_prompt("a") == expected
    assert tokenizer.decode(chat.continue_prompt((), (), "b")).endswith("<think>\n\n</think>\n\n")


def test_a_template_without_end_tokens_stops_at_the_end_of_sequence() -> None:
    tokenizer, chat = tokenizer_of("plain"), format_of("plain")
    assert chat.stop_token_ids == (tokenizer.eos_token_id,)
    later = chat.continue_prompt((), ids_of(tokenizer, "ok</s>"), "b")
    assert tokenizer.decode(later) == "ok</s>\nuser: b\nassistant: "


def test_decode_leaves_out_special_tokens() -> None:
    tokenizer = tokenizer_of("llama3")
    text = "```python\nprint( 'a' , 1 )\n```"
    assert format_of("llama3").decode(ids_of(tokenizer, text + "<|eot_id|>")) == text


def test_lone_surrogates_become_question_marks() -> None:
    assert format_of("chatml").first_prompt("a\ud800b") == format_of("chatml").first_prompt("a?b")


def test_the_callers_tokenizer_is_left_as_it_was() -> None:
    tokenizer = make_tokenizer(CHATML)
    before = tokenizer.backend_tokenizer.to_str()
    ChatFormat(tokenizer).first_prompt("<|im_end|>")
    assert tokenizer.backend_tokenizer.to_str() == before
    assert ids_of(tokenizer, "<|im_end|>") == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_no_chat_template_is_a_config_error() -> None:
    tokenizer = make_tokenizer(CHATML)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatFormat(tokenizer)


def test_a_template_that_shows_no_contents_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="0 times or out of order"):
        ChatFormat(make_tokenizer("{{ messages | length }}"))


def test_a_broken_template_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="does not take messages of user"):
        ChatFormat(make_tokenizer("{{ raise_exception('no') }}"))


def test_a_vocabulary_that_reaches_a_control_token_by_itself_is_broken_up() -> None:
    pieces = [("<unk>", 0.0), ("<eos>", 0.0), *((letter, -5.0) for letter in "<eos>ab")]
    backend = Tokenizer(models.Unigram(vocab=list(dict(pieces).items()), unk_id=0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template="{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}",
    )
    chat = ChatFormat(tokenizer)
    ids = chat.first_prompt("a<eos>b")
    assert ids.count(tokenizer.eos_token_id) == 1
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "a<eos>b<eos>"
    assert chat.first_prompt("?")[0] == tokenizer.unk_token_id
