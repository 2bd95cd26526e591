"""Engine protocol -> vLLM, in the training processes, on CPU and GPU alike.

Weights always come from the trainer, never from disk, so there is one source of truth. Only this file and
its neighbours vllm_*.py import vllm; it does not tokenise and does not know what a turn is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rlef_lightning.errors import EngineError, RLEFError
from rlef_lightning.generation import vllm_ranks
from rlef_lightning.generation.vllm_requests import answer, parameters_of
from rlef_lightning.types import Completion, Sampling

if TYPE_CHECKING:
    import torch

    from rlef_lightning.generation.following import Broadcast, Leader
    from rlef_lightning.generation.vllm_weights import WeightsInto

T = TypeVar("T")

_NOT_STARTED = "the engine has not been started: call start() first"

DType = Literal["float32", "bfloat16", "float16"]


class VLLMEngine:
    """vLLM inside the training processes.

    Args:
        dtype: Number format of the engine's weights and cache. float32 agrees with a float32 trainer to 1e-5;
            bfloat16 is faster on a GPU and needs a larger data.parity_tolerance.
        max_context_tokens: Longest prompt plus response, in tokens; longer dialogues end.
        max_sequences: Most sequences in one batch of the engine.
        cpu_cache_gib: Memory of the key-value cache on a CPU, in GiB.
        gpu_memory_utilization: Share of a GPU's memory that the engine may take, cache included.
        enforce_eager: True: no compilation and no CUDA graphs; starts faster and needs no compiler, samples
            slower on a GPU.
        ranks_per_engine: Processes that run one engine together, each with a part of the weights (tensor
            parallel); 1: each process has an engine of its own. Divides the number of processes and the
            model's attention heads.
        sleep_level: What the engine frees while the trainer works: 0 nothing, 1 the cache, with the weights
            copied to the host, 2 both, as they come anew with each sync. null: 2 on a GPU, 0 on a CPU, where
            vLLM cannot.
        rank_timeout_s: How long the ranks of one engine wait for each other's next step, and for its end.
        extra: Further arguments of `vllm.LLM`, passed on as they are.
    """

    def __init__(
        self,
        dtype: DType = "float32",
        max_context_tokens: int = 4096,
        max_sequences: int = 256,
        cpu_cache_gib: int = 1,
        gpu_memory_utilization: float = 0.5,
        enforce_eager: bool = False,
        ranks_per_engine: int = 1,
        sleep_level: Literal[0, 1, 2] | None = None,
        rank_timeout_s: float = 1800.0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.dtype = dtype
        self.max_sequences = max_sequences
        self.cpu_cache_gib = cpu_cache_gib
        self.gpu_memory_utilization = gpu_memory_utilization
        self.enforce_eager = enforce_eager
        self.sleep_level = sleep_level
        self._rank_timeout_s = rank_timeout_s
        self.extra = dict(extra or {})
        self._ranks_per_engine = ranks_per_engine
        self._max_context_tokens = max_context_tokens
        self._policy_version = 0
        self._requests = 0
        self._waiting: dict[str, asyncio.Future[Completion]] = {}
        self._llm: Any = None  # vllm.LLM; named in an annotation, reading the options would import it
        self._stop_token_ids: list[int] = []
        self._leads = True
        self._channel: Broadcast | None = None  # to the engine's other ranks, or from its leader
        self._leader: Leader | None = None  # while episodes are played
        self._owns_groups = False
        self._asleep = False
        self._into: WeightsInto | None = None

    @property
    def policy_version(self) -> int:
        """Number of weight syncs so far; 0 before the first."""
        return self._policy_version

    @property
    def max_context_tokens(self) -> int:
        """Longest prompt plus response, in tokens."""
        return self._max_context_tokens

    @property
    def ranks_per_engine(self) -> int:
        """Ranks that run one engine together; 1: each rank has its own."""
        return self._ranks_per_engine

    @property
    def rank_timeout_s(self) -> float:
        """Seconds that the ranks of one engine wait for each other's next step."""
        return self._rank_timeout_s

    @property
    def episode_settings(self) -> dict[str, Any]:
        """What decides an episode besides the context: not the memory, nor what changes only the rounding."""
        return {"dtype": self.dtype, "extra": json.dumps(self.extra, sort_keys=True, default=str)}

    def start(self, model_folder: str, stop_token_ids: Sequence[int]) -> None:
        """Build the engine with unset weights; they come by `sync_weights`.

        Raises:
            EngineError: vLLM is missing or refuses the model or the settings; its own reason is quoted.
        """
        if self._llm is not None:
            return
        vllm_ranks.set_environment(self.cpu_cache_gib)
        self._stop_token_ids = list(stop_token_ids)
        try:
            from vllm import LLM
        except ImportError as error:
            raise EngineError(
                f"vLLM cannot be imported ({error}): install the extra 'cpu' or 'gpu' (`make setup` does it)"
            ) from error
        self._build(LLM, model_folder)

    def _build(self, llm: Callable[..., Any], model_folder: str) -> None:
        import torch.distributed as dist

        from rlef_lightning.generation.following import engine_groups
        from rlef_lightning.generation.vllm_weights import WeightsInto, packs, unpacked

        ranks = vllm_ranks.rank_arguments(self._ranks_per_engine)
        self._owns_groups = not dist.is_initialized()
        if self._ranks_per_engine > 1:
            leader, self._channel = engine_groups(self._ranks_per_engine, self.rank_timeout_s)
            self._leads = leader == dist.get_rank()
            vllm_ranks.name_run()
        packed = packs(model_folder, self.dtype)
        try:
            plain = nullcontext() if packed else unpacked()
            with self._compiling(), vllm_ranks.rank_in_environment(), plain:
                self._llm = llm(model_folder, **(self._arguments() | ranks | self.extra))
        except Exception as error:
            raise EngineError(
                f"vLLM could not start on {model_folder!r} with dtype={self.dtype}, "
                f"max_context_tokens={self._max_context_tokens}, max_sequences={self.max_sequences}, "
                f"{vllm_ranks.world_size()} processes and ranks_per_engine={self._ranks_per_engine}: {error}"
                ". Change data.engine.init_args, or the memory left to the engine"
            ) from error
        self._into = WeightsInto(self._llm, packed=packed)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "dtype": self.dtype,
            "max_model_len": self._max_context_tokens,
            "max_num_seqs": self.max_sequences,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enforce_eager": self.enforce_eager,
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            # What the sampler really drew from, temperature and top-p included (the behaviour policy).
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
            "seed": 0,
            "enable_sleep_mode": self._sleep_level() > 0,
        }
        return arguments | vllm_ranks.device_arguments(self._max_context_tokens)

    def _sleep_level(self) -> int:
        import torch

        if self.sleep_level is None:
            return 2 if torch.cuda.is_available() else 0
        return self.sleep_level

    def _compiling(self) -> AbstractContextManager[Any]:
        """No compilation at all where `enforce_eager` says so: vLLM's small helpers would still need g++."""
        import torch

        return torch.compiler.set_stance("force_eager") if self.enforce_eager else nullcontext()

    def submit(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, seed: int
    ) -> asyncio.Future[Completion]:
        """Queue one request; the future resolves in a later `step`, or is cancelled by who gives it up."""
        room = self._max_context_tokens - len(prompt_token_ids)
        parameters = parameters_of(sampling, seed, self._stop_token_ids, room)
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting[self._add(prompt_token_ids, parameters)] = future
        return future

    def _add(self, token_ids: Sequence[int], parameters: Any) -> str:
        name = str(self._requests)
        self._requests += 1
        try:
            self._calls.add_request(name, {"prompt_token_ids": list(token_ids)}, parameters)
        except ValueError as error:
            raise EngineError(f"vLLM refused a prompt of {len(token_ids)} tokens: {error}") from error
        return name

    @property
    def _engine(self) -> Any:
        if self._llm is None:
            raise EngineError(_NOT_STARTED)
        return self._llm.llm_engine

    @property
    def _calls(self) -> Any:
        """Where requests and steps go: to this rank's engine, or by way of the leader to all of its ranks."""
        return self._engine if self._leader is None else self._leader

    def lead(self, play: Callable[[], T]) -> T | None:
        """On the rank that leads this engine the result of `play`; on the others None, once it has played.

        Raises:
            RankError: on a follower: the leader has failed or ended.
            EngineError: on a follower: it computes something else than its leader.
        """
        from rlef_lightning.generation.following import Leader, follow, lead

        if self._channel is None:
            return play()
        if not self._leads:
            with self._compiling():
                follow(self._engine, self._channel, self.rank_timeout_s)
            return None
        self._leader = Leader(self._engine, self._channel)
        try:
            return lead(self._leader, play)
        finally:
            self._leader = None

    def step(self) -> None:
        """Run one iteration of the batch."""
        self._abort([name for name, future in self._waiting.items() if future.cancelled()])
        for output in self._step():
            if output.finished:
                self._finish(output)

    def _finish(self, output: Any) -> None:
        future = self._waiting.pop(output.request_id, None)
        if future is not None:
            answer(future, output, self._policy_version)

    def _step(self) -> list[Any]:
        try:
            with self._compiling():
                return list(self._calls.step())
        except RLEFError:
            raise
        except Exception as error:
            raise EngineError(f"vLLM failed in a step with {len(self._waiting)} requests: {error}") from error

    def abort(self) -> None:
        """Forget every queued request."""
        self._abort(list(self._waiting))

    def _abort(self, names: list[str]) -> None:
        if names:
            self._calls.abort_request(names)
        for name in names:
            del self._waiting[name]

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace all weights, tensor after tensor (see vllm_weights.py), and drop every cached prefix.

        A sleeping engine is woken in vLLM's order: room for the weights, the weights, and only then, when the
        trainer's gathered tensors are gone, room for the cache.
        """
        if self._waiting:
            raise EngineError(f"weights cannot change while {len(self._waiting)} requests are being sampled")
        if self._into is None:
            raise EngineError(_NOT_STARTED)
        asleep, self._asleep = self._asleep, False
        try:
            if asleep:
                self._wake("weights")
            self._into.load(weights)
            if asleep:
                self._wake("kv_cache")
        except RLEFError:
            raise
        except Exception as error:
            raise EngineError(f"vLLM refused the trainer's weights: {error}") from error
        if self._engine.reset_prefix_cache() is False:
            raise EngineError("vLLM kept cached prefixes of the old weights: blocks are still in use")
        self._policy_version += 1

    def prompt_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of given tokens by the engine's present weights."""
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        names = [self._add(ids, parameters) for ids in sequences]
        done: dict[str, list[float]] = {}
        while self._engine.has_unfinished_requests():
            for output in self._step():
                pairs = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
                done[output.request_id] = [entry[token].logprob for token, entry in pairs]
        return [done[name] for name in names]

    def _wake(self, tag: str) -> None:
        vllm_ranks.release_cached_memory()
        try:
            self._llm.wake_up(tags=[tag])
        except Exception as error:
            raise EngineError(
                f"the engine cannot take back its memory ({tag}): {error}. The trainer left it too little: "
                "lower data.engine.init_args.gpu_memory_utilization or model.pack_tokens"
            ) from error

    def sleep(self) -> None:
        """Free weights and cache where `sleep_level` says so; the next `sync_weights` wakes the engine."""
        level = self._sleep_level()
        if self._llm is None or self._asleep or level == 0:
            return
        self._llm.sleep(level=level)
        self._asleep = True

    def close(self) -> None:
        """Free the engine's memory, and the process groups that vLLM made."""
        self._waiting.clear()
        self._leader, self._channel, self._into, self._asleep = None, None, None, False
        llm, self._llm = self._llm, None
        if llm is not None:
            vllm_ranks.shut_down(llm, owned=self._owns_groups)
