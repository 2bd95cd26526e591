"""One vLLM engine over two ranks that also share the trainer's weights by FSDP2."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from rlef_lightning.errors import EngineError, RankError
from rlef_lightning.generation import VLLMEngine
from rlef_lightning.generation.proof import check_parity, probe_sequences
from rlef_lightning.module import RLEFModule
from rlef_lightning.ranks import Ranks
from rlef_lightning.types import Completion, Sampling
from tests.two_ranks import on_two_ranks

from .cpu_engine import CPU_ENGINE
from .engine_checks import STOP, expected_logprobs, largest_difference, shaken, tiny_folder

pytestmark = [pytest.mark.slow, CPU_ENGINE]

CONTEXT_TOKENS = 128


def sharded(folder: str) -> RLEFModule:
    """The module of an evaluation, its policy sharded over both ranks."""
    module: Any = RLEFModule(folder)
    module._trains = lambda: False
    module._device_mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tp"))
    module.configure_model()
    return module  # type: ignore[no-any-return]


def move(module: RLEFModule, folder: str, seed: int) -> Any:
    """Give the policy other weights, as after some training; returns the whole model that it now is."""
    model = shaken(Path(folder), seed)
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, shard in module.policy.model.named_parameters():
            shard.copy_(distribute_tensor(state[name].data, shard.device_mesh, shard.placements))
    return model


async def dialogues(engine: VLLMEngine, draw: Random) -> list[tuple[list[int], Sampling, Completion]]:
    """Random dialogues of one to four turns at the same time, with waits between the turns."""
    said: list[tuple[list[int], Sampling, Completion]] = []

    async def one(seed: int) -> None:
        prompt = [draw.randrange(3, 64) for _ in range(draw.randint(2, 20))]
        for turn in range(draw.randint(1, 4)):
            for _ in range(draw.randrange(6)):
                await asyncio.sleep(0)
            sampling = Sampling(temperature=draw.choice([0.5, 1.0]), max_response_tokens=draw.randint(1, 12))
            completion = await engine.submit(prompt, sampling, seed * 10 + turn)
            said.append((prompt, sampling, completion))
            prompt = [*prompt, *completion.token_ids, 9]

    tasks = [asyncio.ensure_future(one(seed)) for seed in range(draw.randint(1, 6))]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        if engine._waiting:
            engine.step()
    await asyncio.gather(*tasks)
    return said


def check(rank: int, folder: str) -> None:
    engine = VLLMEngine(
        max_context_tokens=CONTEXT_TOKENS,
        max_sequences=8,
        enforce_eager=True,
        ranks_per_engine=2,
        rank_timeout_s=60.0,
    )
    launcher = {name: value for name, value in os.environ.items() if "RANK" in name or "WORLD" in name}
    engine.start(folder, [STOP])
    assert launcher == {n: value for n, value in os.environ.items() if "RANK" in n or "WORLD" in n}
    module, ranks = sharded(folder), Ranks(60.0)
    # Under vLLM's own name for it another run on this machine would find the shared memory of this one.
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("-tp")]
    probe = probe_sequences(64, [STOP])
    for version in (1, 2):
        model = move(module, folder, version)
        engine.sync_weights(module.engine_weights())
        assert engine.policy_version == version
        check_parity(engine.prompt_logprobs(probe), module.sequence_logprobs(probe), tolerance=1e-4)
        for seed in range(6):
            said = engine.lead(lambda seed=seed: asyncio.run(dialogues(engine, Random(seed))))  # type: ignore[misc]
            assert (said is None) == (rank == 1)
            _sampled_from(model, said or [], version)
    assert engine._into is not None
    assert not engine._into.reason  # the second sync was made of copies, of this rank's parts
    _a_failure_reaches_the_follower(rank, engine)
    ranks.gather("both are done")
    engine.close()
    assert ranks.gather(rank) == [0, 1]  # the trainer's process group is still there
    assert module.sequence_logprobs(probe)


def _sampled_from(model: Any, said: list[tuple[list[int], Sampling, Completion]], version: int) -> None:
    for prompt, sampling, completion in said:
        ids = [*prompt, *completion.token_ids]
        expected = expected_logprobs(model, ids, sampling.temperature)[len(prompt) - 1 :]
        assert largest_difference(list(completion.logprobs), expected) <= 1e-4
        assert completion.policy_version == version


def _a_failure_reaches_the_follower(rank: int, engine: VLLMEngine) -> None:
    def fail() -> None:
        raise EngineError("no more")

    error, reason = (RankError, "failed: EngineError: no more") if rank else (EngineError, "^no more$")
    with pytest.raises(error, match=reason):
        engine.lead(fail)


def test_two_ranks_are_one_engine(tmp_path: Path) -> None:
    # Tied: the output layer is the embedding, sharded once and wanted twice.
    folder = tiny_folder(tmp_path / "model", tied=True)
    on_two_ranks(check, str(folder))
