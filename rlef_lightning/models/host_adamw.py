"""Weights, gradients -> AdamW's step, its averages in the host's memory between steps.

The averages of one weight at a time are on the weight's device, for that weight's own step. On a CPU nothing
is moved. The arithmetic is torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, overload

import torch
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_common import _from_local_no_grad
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

AVERAGES = ("exp_avg", "exp_avg_sq")


class HostAdamW(torch.optim.AdamW):
    """torch's AdamW with 8 bytes less for each weight on the device; step by step the same numbers.

    Weights may be sharded: their averages are then shards, too, and in checkpoints the same as AdamW's.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        """As AdamW's, but for options that decide how all weights are moved at once."""
        super().__init__(params, **options, foreach=False)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One weight after the other."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, group)
        return loss

    def _step(self, weight: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.tensor(0.0, device="cpu")
        for name in AVERAGES:
            # Lightning moves what it has read from a checkpoint to the device of the weights.
            if name not in state or local(state[name]).device.type != "cpu":
                state[name] = on_host(state.get(name), weight)
        own = local(weight)
        kept = [local(state[name]) for name in AVERAGES]
        averages = [average.to(own.device, non_blocking=True) for average in kept]
        beta1, beta2 = group["betas"]
        adamw(
            [own],
            [local(weight.grad)],  # type: ignore[arg-type]
            [averages[0]],
            [averages[1]],
            [],
            [state["step"]],
            foreach=False,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for average, place in zip(averages, kept, strict=True):
            if average is not place:
                place.copy_(
                    average, non_blocking=True
                )  # the next step's copy waits for it in the same stream

    def state_dict(self) -> dict[str, Any]:
        """As AdamW's; the averages are those in the host's memory, not copies."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return super().state_dict()

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As AdamW's, also of an AdamW; nothing passes through the device."""
        super().load_state_dict({**state_dict, "state": {}})
        stored = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, weight in zip(stored, own, strict=True):
            if number in state_dict["state"]:
                found = state_dict["state"][number]
                step = torch.as_tensor(found["step"], dtype=torch.float32).to("cpu", copy=True)
                self.state[weight] = {"step": step, **{n: on_host(found[n], weight) for n in AVERAGES}}


def on_host(average: Tensor | None, weight: Tensor) -> Tensor:
    """A copy in the host's memory, of the weight's shape and shards; None: zeros."""
    own = local(weight)
    place = torch.zeros(own.shape, dtype=own.dtype, device="cpu", pin_memory=own.device.type == "cuda")
    if average is not None:
        place.copy_(local(average))
    return _from_local_no_grad(place, weight._spec) if isinstance(weight, DTensor) else place


def local(tensor: Tensor) -> Tensor:
    """This rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
