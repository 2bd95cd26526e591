"""Sampling -> vLLM's parameters of a request, and vLLM's output -> what the request's future gets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from rlef_lightning.errors import EngineError
from rlef_lightning.generation.engine import FINISHED, RequestFailed
from rlef_lightning.types import Completion, Sampling


def parameters_of(sampling: Sampling, seed: int, stop_token_ids: Sequence[int], room: int) -> Any:
    """A `vllm.SamplingParams`; `room` is how many tokens the context leaves."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=min(sampling.max_response_tokens, room),
        seed=seed,
        logprobs=0,
        flat_logprobs=True,  # lists of numbers instead of a dictionary and an object for each token
        stop_token_ids=list(stop_token_ids),
        detokenize=False,
        # Otherwise each step would hand out a copy of all that each request has sampled so far.
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def answer(future: asyncio.Future[Completion], output: Any, policy_version: int) -> None:
    """Resolve a request's future by its last output: with the completion, or with why there is none.

    Raises EngineError when tokens and log-probabilities do not belong together.
    """
    if future.done():
        return
    result = output.outputs[0]
    reason = str(result.finish_reason)
    if reason not in FINISHED:
        future.set_exception(
            RequestFailed(
                f"vLLM ended a request of {len(output.prompt_token_ids or ())} prompt tokens after "
                f"{len(result.token_ids)} sampled ones with {reason!r}; a response ends with {FINISHED}"
            )
        )
        return
    ids = tuple(result.token_ids)
    if tuple(result.logprobs.token_ids) != ids:
        raise EngineError("vLLM gave log-probabilities of other tokens than those that it sampled")
    logprobs = tuple(result.logprobs.logprobs)
    future.set_result(
        Completion(token_ids=ids, logprobs=logprobs, finish_reason=reason, policy_version=policy_version)
    )
