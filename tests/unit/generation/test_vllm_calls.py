"""In which order vLLM is called: sleep, wake, sync, close. With a stand-in for vLLM, which needs no GPU."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlef_lightning.errors import EngineError
from rlef_lightning.generation import RequestFailed, SharedEngine, SleepingEngine, VLLMEngine, vllm_ranks
from rlef_lightning.generation.following import Leader
from rlef_lightning.generation.vllm_ranks import rank_arguments, rank_in_environment
from rlef_lightning.generation.vllm_weights import WeightsInto
from rlef_lightning.types import Completion


class NotingLLM:
    """In the place of vllm.LLM: notes what is called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.llm_engine = SimpleNamespace(
            collective_rpc=self._reload, reset_prefix_cache=lambda: self.calls.append("reset prefixes")
        )

    def _reload(self, method: str, kwargs: dict[str, Any]) -> None:
        self.calls.append((method, [name for name, _ in kwargs["weights_iterator"]]))

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {tags}")


def engine_with(llm: NotingLLM, **options: Any) -> VLLMEngine:
    engine = VLLMEngine(**options)
    engine._llm, engine._into = llm, WeightsInto(llm, packed=True)
    return engine


def weights() -> list[tuple[str, torch.Tensor]]:
    return [("a", torch.zeros(1)), ("b", torch.zeros(1))]


SYNC = [("reload_weights", ["a", "b"]), "reset prefixes"]
WOKEN = ["wake ['weights']", ("reload_weights", ["a", "b"]), "wake ['kv_cache']", "reset prefixes"]


@pytest.mark.parametrize("level", [1, 2])
def test_it_wakes_weights_first_and_the_cache_when_they_are_there(level: Any) -> None:
    llm = NotingLLM()
    engine = engine_with(llm, sleep_level=level)
    engine.sync_weights(weights())  # awake after the start
    engine.sleep()
    engine.sleep()  # it sleeps already
    engine.sync_weights(weights())
    assert llm.calls == [*SYNC, f"sleep {level}", *WOKEN]
    assert engine.policy_version == 2


def test_an_engine_that_must_not_sleep_stays_awake() -> None:
    llm = NotingLLM()
    engine = engine_with(llm, sleep_level=0)
    engine.sleep()
    engine.sync_weights(weights())
    assert llm.calls == SYNC


@pytest.mark.parametrize(("cuda", "level"), [(True, 2), (False, 0)])
def test_it_sleeps_by_default_where_vllm_can(monkeypatch: pytest.MonkeyPatch, cuda: bool, level: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    engine = VLLMEngine()
    assert engine._sleep_level() == level
    assert engine._arguments()["enable_sleep_mode"] is cuda


def test_memory_that_is_gone_at_waking_is_an_error_that_names_the_options() -> None:
    llm = NotingLLM()
    engine = engine_with(llm, sleep_level=2)
    engine.sleep()

    def full(tags: list[str]) -> None:
        raise RuntimeError("CUDA out of memory")

    llm.wake_up = full  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=r"take back its memory \(weights\): CUDA out of memory") as failure:
        engine.sync_weights(weights())
    assert "data.engine.init_args.gpu_memory_utilization" in str(failure.value)
    assert engine.policy_version == 0


def test_torchs_free_memory_is_released_before_each_waking(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = NotingLLM()
    engine = engine_with(llm, sleep_level=2)
    engine.sleep()
    monkeypatch.setattr(vllm_ranks, "release_cached_memory", lambda: llm.calls.append("release"))
    engine.sync_weights(weights())
    assert llm.calls == ["sleep 2", "release", *WOKEN[:2], "release", *WOKEN[2:]]


class NotingCore:
    """In the place of vLLM's LLMEngine: hands out prepared outputs, notes what is called."""

    def __init__(self, *steps: list[Any]) -> None:
        self.steps, self.calls = list(steps), list[Any]()

    def step(self) -> list[Any]:
        self.calls.append("step")
        return self.steps.pop(0) if self.steps else []

    def abort_request(self, names: list[str]) -> None:
        self.calls.append(("abort", names))


def output_of(name: str, reason: str, *, logprobs: Any = None) -> Any:
    """As vLLM's RequestOutput; two tokens."""
    flat = SimpleNamespace(token_ids=[4, 2], logprobs=[-1.0, -0.5])
    result = SimpleNamespace(
        token_ids=[4, 2], finish_reason=reason, logprobs=flat if logprobs is None else logprobs
    )
    return SimpleNamespace(request_id=name, finished=True, prompt_token_ids=[7, 7, 7], outputs=[result])


def stepping(core: NotingCore, *names: str) -> tuple[VLLMEngine, list[asyncio.Future[Completion]]]:
    """An engine in which these requests wait; to be called in an event loop."""
    engine: Any = VLLMEngine()
    engine._llm = SimpleNamespace(llm_engine=core)
    engine._waiting = {name: asyncio.get_running_loop().create_future() for name in names}
    return engine, list(engine._waiting.values())


@pytest.mark.parametrize("reason", ["abort", "error", "repetition", "None"])
def test_what_ends_neither_by_itself_nor_at_its_length_is_no_response(reason: str) -> None:
    async def main() -> None:
        outputs = [output_of("0", reason, logprobs=[]), output_of("1", "stop"), output_of("2", "length")]
        engine, futures = stepping(NotingCore(outputs), "0", "1", "2")
        engine.step()
        match = rf"ended a request of 3 prompt tokens after 2 sampled ones with '{reason}'"
        with pytest.raises(RequestFailed, match=match):
            futures[0].result()
        assert [future.result().finish_reason for future in futures[1:]] == ["stop", "length"]
        assert futures[1].result().logprobs == (-1.0, -0.5)
        assert not engine._waiting

    asyncio.run(main())


def test_log_probabilities_of_other_tokens_end_the_run() -> None:
    async def main() -> None:
        others = SimpleNamespace(token_ids=[4, 3], logprobs=[-1.0, -0.5])
        engine, _ = stepping(NotingCore([output_of("0", "stop", logprobs=others)]), "0")
        with pytest.raises(EngineError, match="other tokens than those that it sampled"):
            engine.step()

    asyncio.run(main())


def test_a_future_that_is_cancelled_takes_its_request_out_of_the_next_step() -> None:
    async def main() -> None:
        core = NotingCore([], [output_of("0", "stop")])
        engine, futures = stepping(core, "0", "1", "2")
        futures[1].cancel()
        engine.step()
        engine.step()
        assert core.calls == [("abort", ["1"]), "step", "step"]
        assert futures[0].result().token_ids == (4, 2)
        engine.abort()
        engine.abort()  # nothing is left
        assert core.calls[3:] == [("abort", ["2"])]

    asyncio.run(main())


def test_the_followers_hear_of_it_before_the_same_step() -> None:
    async def main() -> None:
        core, sent = NotingCore(), list[Any]()
        engine, futures = stepping(core, "0", "1")
        channel: Any = SimpleNamespace(send=lambda orders: sent.append(orders.calls))
        engine._leader = Leader(core, channel)
        engine.step()
        futures[0].cancel()
        engine.step()
        assert sent == [(), (("abort_request", (["0"],)),)]

    asyncio.run(main())


@pytest.mark.parametrize("owned", [True, False])
def test_closing_frees_vllms_groups_and_not_the_trainers(
    monkeypatch: pytest.MonkeyPatch, owned: bool
) -> None:
    freed: list[Any] = []
    monkeypatch.setattr(vllm_ranks, "shut_down", lambda llm, *, owned: freed.append((llm, owned)))
    llm = NotingLLM()
    engine = engine_with(llm)
    engine._owns_groups = owned
    engine.close()
    engine.close()
    assert freed == [(llm, owned)]


def test_it_can_sleep_and_be_shared() -> None:
    engine: Any = VLLMEngine(ranks_per_engine=2)
    assert isinstance(engine, SleepingEngine)
    assert isinstance(engine, SharedEngine)
    assert engine.ranks_per_engine == 2


def test_a_rank_with_an_engine_of_its_own_plays_itself() -> None:
    assert VLLMEngine().lead(lambda: "played") == "played"


def test_a_process_alone_needs_no_launcher() -> None:
    assert rank_arguments(1) == {}


@pytest.mark.parametrize(("ranks", "parts"), [(4, 3), (1, 2)])
def test_ranks_that_cannot_be_divided_into_engines_are_refused(
    monkeypatch: pytest.MonkeyPatch, ranks: int, parts: int
) -> None:
    monkeypatch.setattr(vllm_ranks, "world_size", lambda: ranks)
    with pytest.raises(EngineError, match=rf"{ranks} processes cannot form engines of {parts} ranks"):
        rank_arguments(parts)


@pytest.mark.parametrize(("local", "seen"), [(None, "3"), ("1", "1")])
def test_the_launchers_variables_are_as_they_were_after_the_start(
    monkeypatch: pytest.MonkeyPatch, local: str | None, seen: str
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    before = {"WORLD_SIZE": "4"} | ({} if local is None else {"LOCAL_RANK": local})
    monkeypatch.setattr(os, "environ", dict(before))
    with rank_in_environment():
        assert (os.environ["RANK"], os.environ["LOCAL_RANK"]) == ("3", seen)
        os.environ["LOCAL_WORLD_SIZE"] = "1"  # as vLLM does on a CPU: ranks of one engine
    assert os.environ == before


@pytest.mark.parametrize("local", [None, "1"])
def test_the_engine_is_on_the_gpu_of_its_rank(monkeypatch: pytest.MonkeyPatch, local: str | None) -> None:
    """With trainer.devices: [2, 3] the second rank of the machine computes on cuda:3."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    before = {} if local is None else {"LOCAL_RANK": local}
    monkeypatch.setattr(os, "environ", dict(before))
    with rank_in_environment():
        assert os.environ["LOCAL_RANK"] == "3"
    assert os.environ == before


def test_a_process_alone_computes_on_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert rank_arguments(1) == {}
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    with pytest.raises(EngineError, match=r"cuda:2.*CUDA_VISIBLE_DEVICES=2 and trainer.devices=1"):
        rank_arguments(1)


def test_ranks_of_one_engine_do_not_schedule_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_ranks, "world_size", lambda: 4)
    launcher = {"distributed_executor_backend": "external_launcher"}
    assert rank_arguments(1) == {**launcher, "tensor_parallel_size": 1}
    together = {**launcher, "tensor_parallel_size": 2, "async_scheduling": False}
    worker = "rlef_lightning.generation.vllm_worker.NamedCPUWorker"
    assert rank_arguments(2) == {**together, "worker_cls": worker}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert rank_arguments(2) == together
