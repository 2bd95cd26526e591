"""Which of torch's errors mean that another process is gone."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from rlef_lightning.cli import explained, lost_rank
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


def test_devices_that_are_not_the_launchers_are_explained() -> None:
    message = "You set `devices=4` and `num_nodes=1` in Lightning, but the product (4 * 1) does not match"
    assert explained(ValueError(message)) == message
    assert explained(ValueError("invalid literal for int()")) == ""


def test_full_memory_is_explained() -> None:
    said = explained(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has ..."))
    assert "Tried to allocate 2 GiB. Lower model.pack_tokens" in said
    assert "GPU 0" not in said
