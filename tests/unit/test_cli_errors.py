"""Which of torch's errors mean that another process is gone."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from rlef_lightning.cli import lost_rank
from rlef_lightning.errors import EngineError

GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:9612."
)


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError(GLOO), True),
        (dist.DistBackendError("NCCL error: remote process exited"), True),
        (dist.DistNetworkError("the server socket has failed"), True),
        (RuntimeError("CUDA out of memory"), False),
        (ValueError(GLOO), False),
        (caused_by(EngineError("vLLM refused the weights"), RuntimeError(GLOO)), True),
        (EngineError("vLLM refused the weights"), False),
    ],
)
def test_a_broken_connection_is_told_from_other_errors(error: Exception, lost: bool) -> None:
    assert lost_rank(error) is lost
