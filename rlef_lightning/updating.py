"""A pack, the networks that are trained -> losses for backward passes; their optimizer and clipping.

Every loss is a pack's share of the mini-batch's: divided by counts over all packs and ranks. It takes
no step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rlef_lightning.errors import TrainingError
from rlef_lightning.learning.losses import PolicyLoss, ValueLoss
from rlef_lightning.learning.minibatches import MiniBatch
from rlef_lightning.learning.objectives import Objective
from rlef_lightning.learning.packing import PackedBatch
from rlef_lightning.models.host_adamw import HostAdamW
from rlef_lightning.models.networks import PolicyNetwork, PolicyValueNetwork, ValueNetwork
from rlef_lightning.scoring import logprobs_and_values, response_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The networks that are trained, and for what."""

    policy: PolicyNetwork
    value: ValueNetwork | None
    """None where the policy's trunk has the value head, and where the objective has no values."""
    objective: Objective
    value_loss_weight: float = 1.0
    """Of the value loss in the sum with the policy loss, where both have one trunk."""

    def losses(
        self, packed: PackedBatch, batch: MiniBatch, *, counts: bool
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Losses to call backward on, one after the other, each with its numbers for the log.

        Args:
            packed: One pack of the mini-batch.
            batch: Says how many tokens and turns there are in all packs.
            counts: False: nothing in the pack counts; the gradients are zeros.
        """
        if isinstance(self.policy, PolicyValueNetwork) and self.objective.value_level is not None:
            logprobs, _, values = logprobs_and_values(
                self.policy, packed, batch.temperature, with_entropy=False
            )
            policy = self._policy_loss(logprobs, packed, batch, counts)
            value = self._value_loss(values, packed, batch, counts)
            shown = self._policy_numbers(policy) | _value_numbers(value)
            yield policy.loss + self.value_loss_weight * value.loss, shown
            return
        logprobs, _ = response_logprobs(self.policy, packed, batch.temperature, with_entropy=False)
        policy = self._policy_loss(logprobs, packed, batch, counts)
        yield policy.loss, self._policy_numbers(policy)
        if self.value is not None:
            value = self._value_loss(self.value(packed), packed, batch, counts)
            yield value.loss, _value_numbers(value)

    def _policy_loss(
        self, logprobs: Tensor, packed: PackedBatch, batch: MiniBatch, counts: bool
    ) -> PolicyLoss:
        mask = torch.full_like(packed.target_ids, counts, dtype=torch.bool)
        return self.objective.policy_loss(logprobs, packed, mask, batch.response_tokens)

    def _value_loss(self, values: Tensor, packed: PackedBatch, batch: MiniBatch, counts: bool) -> ValueLoss:
        mask = torch.full_like(packed.value_index, counts, dtype=torch.bool)
        return self.objective.value_loss(values, packed, mask, batch.turns)

    def _policy_numbers(self, policy: PolicyLoss) -> dict[str, Tensor]:
        numbers = {
            "policy_loss": policy.loss.detach(),
            "clip_fraction": policy.clip_fraction,
            "update_kl": policy.approx_kl,
            "behaviour_correction": policy.correction_mean,
            "correction_truncated": policy.truncated_fraction,
        }
        return numbers | ({"loss_kl": policy.kl} if self.objective.kl == "loss" else {})


def _value_numbers(value: ValueLoss) -> dict[str, Tensor]:
    return {"value_loss": value.loss.detach(), "value_clip_fraction": value.clip_fraction}


def parameter_groups(
    policy: PolicyNetwork, value: ValueNetwork | None, *, learning_rate: float, value_learning_rate: float
) -> list[dict[str, Any]]:
    """One for the policy's weights, one for those that only the value has: its network, or its head."""
    own = policy.value_head if isinstance(policy, PolicyValueNetwork) else value
    groups: list[tuple[str, nn.Module, float]] = [("policy", policy.model, learning_rate)]
    if own is not None:
        groups.append(("value", own, value_learning_rate))
    return [
        {"params": [p for p in module.parameters() if p.requires_grad], "lr": rate, "name": name}
        for name, module, rate in groups
    ]


def adamw(
    groups: list[dict[str, Any]], betas: tuple[float, float], weight_decay: float, *, offload: bool
) -> torch.optim.Optimizer:
    """AdamW over the groups; with `offload` its averages lie in the host's memory."""
    options: dict[str, Any] = {"betas": betas, "weight_decay": weight_decay}
    optimizer: torch.optim.Optimizer
    optimizer = HostAdamW(groups, **options) if offload else torch.optim.AdamW(groups, fused=True, **options)
    optimizer.register_load_state_dict_pre_hook(_own_ways)
    return optimizer


def _own_ways(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint says what the averages are. How they are moved is this run's choice, by `offload`: the
    other way's flags would come with them, and stay."""
    groups = [
        {**stored, **{way: own[way] for way in ("fused", "foreach")}}
        for stored, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**state, "param_groups": groups}


def clip_gradients(networks: Mapping[str, nn.Module | None], limit: float | None) -> dict[str, float]:
    """Scale each network's gradients to a norm of at most `limit`; the norms before that, by name.

    A value head on the policy's trunk is clipped with the policy: their gradients come from one loss.

    Args:
        networks: Those that have just had their backward passes; None: there is no such network.
        limit: Of each norm; None: gradients stay as they are, and only their norms are taken.

    Raises:
        TrainingError: a norm is not finite; gradients are as the backward passes left them. Norms are those
            over all ranks, so it comes on all of them.
    """
    parts = {
        name: [weight for weight in network.parameters() if weight.grad is not None]
        for name, network in networks.items()
        if network is not None
    }
    totals = {name: _norm(weights) for name, weights in parts.items()}
    norms = {name: float(_whole(total)) for name, total in totals.items()}
    _check_finite(norms)
    if limit is not None:
        for name, weights in parts.items():
            torch.nn.utils.clip_grads_with_norm_(weights, limit, totals[name])
    return {f"gradient_norm_{name}": norm for name, norm in norms.items()}


def _norm(weights: list[nn.Parameter]) -> Tensor:
    """[] of all gradients together."""
    return torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def _whole(norm: Tensor) -> Tensor:
    """Of sharded gradients each rank has a part of the norm."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _check_finite(norms: Mapping[str, float]) -> None:
    wrong = [f"of the {name} network is {norm}" for name, norm in norms.items() if not isfinite(norm)]
    if wrong:
        raise TrainingError(
            f"the gradient norm {' and that '.join(wrong)}; it must be finite, or the step would destroy the "
            "weights. They are as before it, and the last checkpoint stays. Look at "
            "model.learning_rate and model.value_learning_rate (too high?), model.compute_dtype and "
            "model.reference_dtype (float32?), and the log-probabilities: train/mismatch_max, train/kl and "
            "train/entropy of the epochs before"
        )
