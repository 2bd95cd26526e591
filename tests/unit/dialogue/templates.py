"""Compact chat templates with the behaviour of well-known model families, and a tokenizer to fit.

Written for these tests: the frames are those of the families, reduced to what dialogues use.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LLAMA3 = """{{- bos_token -}}
{%- if not date_string is defined -%}{%- set date_string = strftime_now("%d %b %Y") -%}{%- endif -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] | trim -%}{%- set messages = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' + system -}}
{{- '<|eot_id|>' -}}
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

QWEN3 = """{%- set last = namespace(user=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- set content = message.content -%}
    {%- if message.role == 'assistant' and '</think>' in content and loop.index0 < last.user -%}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
    {%- elif message.role == 'assistant' and loop.last and not '</think>' in content -%}
        {%- set content = '<think>\\n\\n</think>\\n\\n' + content -%}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and not enable_thinking -%}
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
    "chatml": CHATML,
    "qwen25": QWEN25,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "plain": PLAIN,
}
END_OF_TURN = {
    "llama3": "<|eot_id|>",
    "chatml": "<|im_end|>",
    "qwen25": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "gemma": "<end_of_turn>",
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


def make_tokenizer(template: str, *, unflagged: tuple[str, ...] = UNFLAGGED_TOKENS) -> Any:
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
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="</s>", chat_template=template
    )
    flagged = [token for token in SPECIAL_TOKENS if token not in unflagged]
    tokenizer.add_special_tokens({"additional_special_tokens": flagged})
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in unflagged])
    return tokenizer
