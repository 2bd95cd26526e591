"""What is wrong on one rank ends both with its reason, and neither waits; two real ranks, started once."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from rlef_lightning import cli
from rlef_lightning.generation.vllm_ranks import rank_arguments
from rlef_lightning.learning.objectives import GRPO, TokenValuePPO
from rlef_lightning.models.lora import whole
from rlef_lightning.module import RLEFModule
from rlef_lightning.shards import SHARDS_LIST
from tests.sharded_runs import module_of, save, strategy_of, write_model
from tests.two_ranks import on_two_ranks

Work = Callable[[], object]


def ended(work: Work, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `rlef` says, and ends with 1, when a command comes to this."""
    monkeypatch.setattr(cli, "_run", lambda arguments, from_command_line: work())
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as code:
        cli.main(["fit"])
    assert code.value.code == 1
    assert said.getvalue().count("rlef: error: ") == 1
    return said.getvalue()


def truncated_weights(rank: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = folder / f"seen_by_{rank}"
    shutil.copytree(folder / "small", own)
    if rank == 1:  # its node's disk was full when the model was copied
        whole = (own / "model.safetensors").read_bytes()
        (own / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    said = ended(lambda: module_of(own), monkeypatch)
    assert "model.safetensors" in said
    assert "model.model_folder" in said
    assert "cannot be read" in said
    assert ("rank 1 failed: " in said) == (rank == 0)


def other_checkpoints(rank: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_value, without = module_of(folder / "small"), module_of(folder / "small", objective=GRPO())
    kept = {name: folder / f"{name}.ckpt" for name in ("with_value", "without")}
    save(strategy_of(with_value), kept["with_value"])
    save(strategy_of(without), kept["without"])
    cases = [
        (with_value, kept["without"], ["model.objective", "value."]),
        (without, kept["with_value"], ["model.objective", "value."]),
        (
            module_of(folder / "large", objective=GRPO()),
            kept["without"],
            ["model.model_folder", "(61, 32)", "(61, 64)"],
        ),
        (
            module_of(folder / "small", objective=GRPO(), weight_decay=0.5),
            kept["without"],
            ["model.weight_decay", "it is 0.1 there and 0.5 here"],
        ),
    ]
    for module, path, says in cases:
        strategy = strategy_of(module)
        said = ended(lambda strategy=strategy, path=path: strategy.load_checkpoint(path), monkeypatch)
        assert all(word in said for word in [str(path), "--ckpt_path", *says]), said
    assert strategy_of(without).load_checkpoint(kept["without"])["epoch"] == 1
    torn_checkpoints(rank, without, kept["without"], monkeypatch)


def other_runs(rank: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option that differs is named, before a weight is read, and with those of the optimizer."""
    path = folder / "run.ckpt"
    written = module_of(folder / "small")
    strategy = strategy_of(written)
    checkpoint = {"state_dict": strategy.lightning_module_state_dict(), "epoch": 1}
    checkpoint["optimizer_states"] = [strategy.optimizer_state(one) for one in strategy.optimizers]
    written.on_save_checkpoint(checkpoint)
    strategy.save_checkpoint(checkpoint, path)
    options = {"objective": TokenValuePPO(beta=0.5), "warmup_steps": 3, "betas": (0.9, 0.99)}
    module = module_of(folder / "small", **options)
    strategy = strategy_of(module)
    before = whole(module.policy.model.get_output_embeddings().weight)
    said = ended(lambda: strategy.load_checkpoint(path), monkeypatch)
    for option in ("objective", "objective.beta", "objective.value_level", "warmup_steps", "betas"):
        assert f"model.{option}: " in said
    assert "(model.betas cannot change" in said
    assert torch.equal(whole(module.policy.model.get_output_embeddings().weight), before)
    allowed = strategy_of(module_of(folder / "small", warmup_steps=3, allow_changes=True))
    assert allowed.load_checkpoint(path)["epoch"] == 1


def torn_checkpoints(rank: int, module: RLEFModule, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dist.barrier()
    if rank == 1:
        (shard,) = path.glob("__1_*.distcp")
        shard.write_bytes(shard.read_bytes()[:1000])
    dist.barrier()
    load = strategy_of(module).load_checkpoint
    said = ended(lambda: load(path), monkeypatch)
    assert "cannot be read (--ckpt_path)" in said
    assert "Traceback" not in said
    dist.barrier()
    (path / SHARDS_LIST).unlink(missing_ok=True)
    dist.barrier()
    assert "there is no whole checkpoint" in ended(lambda: load(path), monkeypatch)


def ranks_that_do_not_divide(rank: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ended(lambda: rank_arguments(3), monkeypatch)
    assert "2 processes cannot form engines of 3 ranks each" in said
    assert "data.engine.init_args.ranks_per_engine" in said


def full_memory(rank: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of passes with collectives: the other rank is ended by the end of this one."""
    module, calls = module_of(folder / "small"), iter(range(1000))

    def passes() -> None:
        for call in calls:
            if rank == 1 and call == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore")
            module.sequence_logprobs([[1, 2, 3]])

    said = ended(passes, monkeypatch)
    if rank == 1:
        assert "CUDA out of memory. Tried to allocate 20.00 MiB." in said
        assert "model.pack_tokens" in said
        assert "rlef plan" in said
    else:
        assert "another process of this run has ended" in said


CASES = (truncated_weights, other_checkpoints, other_runs, ranks_that_do_not_divide, full_memory)


def all_cases(rank: int, folder: Path) -> None:
    for case in CASES:
        with pytest.MonkeyPatch.context() as monkeypatch:
            case(rank, folder, monkeypatch)
    os._exit(0)  # the process group is broken now


@pytest.mark.slow
def test_every_rank_ends_with_the_reason(tmp_path: Path) -> None:
    for name, hidden_size in (("small", 32), ("large", 64)):
        write_model(tmp_path / name, hidden_size)
    on_two_ranks(all_cases, tmp_path)
