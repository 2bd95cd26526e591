"""Packed queries, keys, values -> causal attention within each sequence, without padding or masks.

Importing this file makes the implementation "packed_sdpa" known to transformers. A model that was
loaded with it takes `packed_arguments(...)` in its forward call. Knows nothing of losses.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

IMPLEMENTATION = "packed_sdpa"
"""The name to pass to transformers as `attn_implementation`."""

UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""Arguments by which some architectures change the attention scores; refused, never ignored."""


def packed_arguments(cu_seqlens: Tensor, max_seqlen: int) -> dict[str, Any]:
    """What a model's forward call needs besides tokens and positions; transformers' own names.

    Shapes: cu_seqlens [N + 1] int32, from 0 to T. max_seqlen in tokens.
    """
    return {
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max_seqlen,
        "max_length_k": max_seqlen,
    }


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention, each sequence by itself; the form that transformers calls.

    Shapes: query [1, Hq, T, D], key and value [1, Hkv, T, D], Hkv dividing Hq -> [1, T, Hq, D], None.
    Without `cu_seq_lens_q` each row of the batch is one sequence, all of them without padding.

    On CUDA in half precision this is torch's variable-length kernel, else a loop over the sequences.
    Raises ValueError for a mask, or for a kind of attention that it does not compute.
    """
    cu_seqlens, longest = kwargs.get("cu_seq_lens_q"), kwargs.get("max_length_q", query.shape[2])
    _check(attention_mask, sliding_window, longest, kwargs)
    if cu_seqlens is None:
        return _causal(query, key, value, dropout, scaling).transpose(1, 2).contiguous(), None
    if query.shape[0] != 1:
        raise ValueError(f"a pack is one row of tokens; found a batch of {query.shape[0]} rows")
    if dropout == 0.0 and _kernel_fits(query):
        return _variable_length(query, key, value, cu_seqlens, longest=longest, scaling=scaling), None
    return _one_by_one(query, key, value, cu_seqlens, dropout=dropout, scaling=scaling), None


def no_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> None:
    """The mask that transformers should build for `packed_attention`: none.

    Raises ValueError for a batch with padding, which would be attended to as if it were text.
    """
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError(
            f"attention {IMPLEMENTATION!r} takes no padding: pack the sequences, or load the model with "
            "attn_implementation='sdpa'"
        )


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, *, dropout: float, scaling: float | None
) -> Tensor:
    # split, not slices: the backward pass of a slice fills a tensor of the whole pack with zeros.
    lengths = cu_seqlens.diff().tolist()
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [_causal(q, k, v, dropout, scaling).transpose(1, 2) for q, k, v in parts]
    return torch.cat(outputs, dim=1)


def _causal(query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None) -> Tensor:
    asked, known = query.shape[2], key.shape[2]
    if asked not in (known, 1):
        raise ValueError(f"{asked} queries for {known} keys: only whole sequences, or one new token each")
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        dropout_p=dropout,
        scale=scaling,
        is_causal=asked == known,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _variable_length(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, *, longest: int, scaling: float | None
) -> Tensor:
    kernel, knows_gqa = _kernel()
    if query.shape[1] != key.shape[1] and not knows_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    options = {"enable_gqa": query.shape[1] != key.shape[1]} if knows_gqa else {}
    rows = [tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)]
    causal = (-1, 0)  # any distance to the left, none to the right
    output = kernel(
        *rows, cu_seqlens, cu_seqlens, longest, longest, scale=scaling, window_size=causal, **options
    )
    return output[None]


@functools.cache
def _kernel() -> tuple[Callable[..., Any], bool]:
    """torch's variable-length attention, and whether it knows grouped heads (torch 2.11 may not)."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn, "enable_gqa" in inspect.signature(varlen_attn).parameters


def _kernel_fits(query: Tensor) -> bool:
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    head_dim = query.shape[-1]
    return head_dim % 8 == 0 and head_dim <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _check(mask: Tensor | None, window: int | None, longest: int, options: dict[str, Any]) -> None:
    if mask is not None:
        raise ValueError(f"attention {IMPLEMENTATION!r} takes no mask; found one of {tuple(mask.shape)}")
    if window is not None and longest > window:
        raise ValueError(
            f"a sequence of {longest} tokens is over the model's sliding window of {window}, which "
            f"attention {IMPLEMENTATION!r} does not compute: shorten the episodes"
        )
    found = [name for name in UNSUPPORTED if options.get(name) is not None]
    if found or options.get("is_causal") is False:
        raise ValueError(f"attention {IMPLEMENTATION!r} is plain and causal; the model asks for {found}")


AttentionInterface.register(IMPLEMENTATION, packed_attention)
AttentionMaskInterface.register(IMPLEMENTATION, no_mask)
