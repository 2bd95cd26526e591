"""Compact chat templates with the behaviour of well-known model families, and a tokenizer to fit.

Written for these tests: frames and behaviour are those of the published templates, reduced to what dialogues
use (no tools, no images): who trims, who drops, who refuses or moves a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LLAMA3 = """{%- for message in messages -%}
    {%- if loop.index0 == 0 -%}{{- bos_token -}}{%- endif -%}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
    {{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""

LLAMA31 = """{{- bos_token -}}
{%- if not date_string is defined -%}{%- set date_string = strftime_now("%d %b %Y") -%}{%- endif -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] | trim -%}{%- set messages = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n' -}}
{{- 'Today Date: ' + date_string + '\\n\\n' + system + '<|eot_id|>' -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
    {{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""

CHATML = """{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

QWEN25 = (
    """{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou are a default assistant.<|im_end|>\\n' -}}
{%- endif -%}"""
    + CHATML
)

QWEN3 = """{%- if messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- set ns = namespace(last_query_index=messages | length - 1, searching=true) -%}
{%- for message in messages[::-1] -%}
    {%- if ns.searching and message.role == 'user' -%}
        {%- set ns.searching = false -%}
        {%- set ns.last_query_index = messages | length - 1 - loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- set content = message.content -%}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' -}}
    {%- elif message.role == 'assistant' -%}
        {%- set thought = '' -%}
        {%- if '</think>' in content -%}
            {%- set thought = content.split('</think>')[0].rstrip('\\n') -%}
            {%- set thought = thought.split('<think>')[-1].lstrip('\\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if loop.index0 > ns.last_query_index and (loop.last or thought) -%}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -}}
        {%- else -%}{{- content -}}{%- endif -%}
        {{- '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}"""

GEMMA = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Roles must alternate') -}}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""

GEMMA3 = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\\n\\n' -%}{%- set messages = messages[1:] -%}
{%- else -%}{%- set prefix = '' -%}{%- endif -%}
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Roles must alternate') -}}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{- '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') -}}
    {{- message['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""

TINY = (Path(__file__).parents[3] / "tools/tiny_model/model/chat_template.jinja").read_text()

MISTRAL = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}{%- set messages = messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {{- '[INST]' -}}
        {%- if loop.last and system is defined -%}{{- system + '\\n\\n' -}}{%- endif -%}
        {{- message['content'] + '[/INST]' -}}
    {%- else -%}{{- message['content'] + eos_token -}}{%- endif -%}
{%- endfor -%}"""

PLAIN = """{%- for message in messages -%}
    {{- message['role'] + ': ' + message['content'] + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"""

DEAF_TO_SYSTEM = """{%- for message in messages -%}
    {%- if message['role'] != 'system' -%}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

TEMPLATES = {
    "llama3": LLAMA3,
    "llama31": LLAMA31,
    "chatml": CHATML,
    "qwen25": QWEN25,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "gemma3": GEMMA3,
    "mistral": MISTRAL,
    "plain": PLAIN,
}
END_OF_TURN = {
    "llama3": "<|eot_id|>",
    "llama31": "<|eot_id|>",
    "chatml": "<|im_end|>",
    "qwen25": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "mistral": "</s>",
}
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "</s>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
)
# Added, but not flagged special: Qwen 3 has such tokens, and so have some fine-tuned models.
UNFLAGGED_TOKENS = ("<think>", "</think>")
_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family as its users meet it: its template, and the control tokens that its tokenizer has."""

    template: str
    bos: str | None
    eos: str
    end_of_turn: str
    special: tuple[str, ...]
    unflagged: tuple[str, ...] = ()
    """Added tokens that are not flagged special."""
    strips_answers: bool = False
    """The template strips white space off what the assistant said."""


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
_IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_QWEN = (
    "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
"""Marks that the published tokenizers do not flag special, and no template names."""
_LLAMA = {
    "bos": "<|begin_of_text|>", "eos": "<|eot_id|>", "end_of_turn": "<|eot_id|>",
    "special": ("<|end_of_text|>", *_HEADERS), "strips_answers": True,
}  # fmt: skip
_GEMMA = {
    "bos": "<bos>", "eos": "<eos>", "end_of_turn": "<end_of_turn>",
    "special": ("<start_of_turn>", "<end_of_turn>"), "strips_answers": True,
}  # fmt: skip
FAMILIES: dict[str, Family] = {
    "llama3": Family(template=LLAMA3, **_LLAMA),
    "llama31": Family(template=LLAMA31, **_LLAMA),
    "qwen25": Family(
        template=QWEN25, bos=None, eos="<|im_end|>", end_of_turn="<|im_end|>", special=_IM, unflagged=_QWEN,
    ),
    "qwen3": Family(
        template=QWEN3, bos=None, eos="<|im_end|>", end_of_turn="<|im_end|>", special=_IM,
        unflagged=("<think>", "</think>", *_QWEN),
    ),
    "chatml": Family(template=CHATML, bos=None, eos="<|endoftext|>", end_of_turn="<|im_end|>", special=_IM),
    "gemma": Family(template=GEMMA, **_GEMMA),
    "gemma3": Family(template=GEMMA3, **_GEMMA),
    "tiny": Family(
        template=TINY, bos="<|begin|>", eos="<|end|>", end_of_turn="<|end|>",
        special=("<|user|>", "<|assistant|>", "<|system|>"),
    ),
}  # fmt: skip


def family_tokenizer(name: str) -> Any:
    """A small tokenizer with the control tokens of the family and no others."""
    family = FAMILIES[name]
    return make_tokenizer(
        family.template, special=family.special, unflagged=family.unflagged, bos=family.bos, eos=family.eos
    )


def make_tokenizer(
    template: str,
    *,
    special: tuple[str, ...] = SPECIAL_TOKENS,
    unflagged: tuple[str, ...] = UNFLAGGED_TOKENS,
    bos: str | None = "<|begin_of_text|>",
    eos: str = "</s>",
) -> Any:
    """A byte-level BPE with a few merges, line breaks and words among them, so that borders matter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("Ċ", "Ċ"),
        ("u", "s"),
        ("us", "e"),
        ("use", "r"),
        ("Ġ", "a"),
        ("|", ">"),
        (":", "Ġ"),
        ("<", "|"),
    ]
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    split = pre_tokenizers.Split(pattern=Regex(_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, chat_template=template
    )
    flagged = [token for token in special if token not in unflagged]
    tokenizer.add_special_tokens({"additional_special_tokens": flagged})
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in unflagged])
    return tokenizer
