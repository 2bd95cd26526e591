"""What the processes of a run get to know of each other; two real ones where it takes two."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rlef_lightning.errors import ConfigError, RankError
from rlef_lightning.ranks import Ranks, summed


def test_one_process_asks_nobody() -> None:
    ranks = Ranks()
    assert (ranks.size, ranks.rank) == (1, 0)
    assert ranks.gather("part") == ["part"]
    assert ranks.together(lambda: 3) == [3]
    assert ranks.largest(0.5) == 0.5
    counter = ranks.counter()
    assert [counter.add(1), counter.add(2)] == [1, 3]
    assert ranks.counter().add(1) == 1
    assert summed({"a": 2.0}, torch.device("cpu")) == {"a": 2.0}


def test_one_process_keeps_its_own_error() -> None:
    def fail() -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match=r"^no$"):
        Ranks().together(fail)


def met(rank: int, store: str, timeout_s: float) -> Ranks:
    """The two ranks, after they have met."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    return Ranks(timeout_s)


def agree(rank: int, store: str) -> None:
    """Everything that works, then a failure of one, which the other gets to know with its reason."""
    ranks = met(rank, store, 60.0)
    assert ranks.gather(rank * 10) == [0, 10]
    assert ranks.largest(float(rank)) == 1.0
    assert summed({"a": 1.0, "b": rank + 0.5}, torch.device("cpu")) == {"a": 2.0, "b": 2.0}
    counter = ranks.counter()
    own = [counter.add(1) for _ in range(50)]
    assert sorted(number for part in ranks.gather(own) for number in part) == list(range(1, 101))
    closing = ranks.counter()

    def work() -> int:
        if rank == 1:
            raise ConfigError("no memory")
        while closing.add(1) < 1000:  # until the other closes it
            pass
        return 0

    told = (RankError, "rank 1 failed: ConfigError: no memory")
    error, reason = (ConfigError, "^no memory$") if rank else told
    with pytest.raises(error, match=reason):
        ranks.together(work, closing)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_agree_and_fail_together(tmp_path: Path) -> None:
    mp.spawn(agree, args=(str(tmp_path / "store"),), nprocs=2)


def one_ends(rank: int, store: str, ending: str) -> None:
    ranks = met(rank, store, 5.0 if ending == "late" else 60.0)
    if rank == 1 and ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1:
        signal.pause()  # never comes; ended by its parent
    with pytest.raises(RankError, match=r"rank 0 waited for the other 1: .*data\.rank_timeout_s"):
        ranks.together(lambda: None)
    Path(store + ".told").touch()
    os._exit(0)  # torch's threads of a group whose other rank is gone may abort at the interpreter's end


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["killed", "late"])
def test_a_rank_that_dies_or_never_comes_ends_the_other(tmp_path: Path, ending: str) -> None:
    context = mp.get_context("spawn")
    store = str(tmp_path / "store")
    first, second = (context.Process(target=one_ends, args=(rank, store, ending)) for rank in range(2))
    first.start()
    second.start()
    first.join(timeout=50)
    second.kill()
    assert first.exitcode == 0
    assert Path(store + ".told").exists()
