"""Two real ranks must agree on the numbers of the whole batch, even when one of them has no episodes."""

from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from episodes import failed, solved

from rlef_lightning.metrics import SolveRate, dialogue_metrics


def on_rank(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    rate, dialogue = SolveRate(n=1, k=3, turn_limit=3), dialogue_metrics(turn_limit=3)
    if rank == 0:
        episodes = [solved("a"), failed("b"), solved("b", 1), failed("c")]
        for metric in (rate, dialogue):
            metric.update(episodes[:1])
            metric.update(episodes[1:])
    assert rate.compute().item() == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert dialogue.compute()["solve_rate_turn_3"] == pytest.approx(2 / 4)
    interval = rate.confidence_interval(seed=3)
    more = [solved("a"), solved("c", 2)] if rank else []  # now with unequal numbers, problems on both
    rate.update(more)
    dialogue.update(more)
    assert rate.compute().item() == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert dialogue.compute()["mean_turns"] == pytest.approx((1 + 3 + 2 + 3 + 1 + 3) / 6)
    assert rate.confidence_interval(seed=3) != interval
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_ranks_agree(tmp_path: Path) -> None:
    mp.spawn(on_rank, args=(str(tmp_path / "store"),), nprocs=2)
