"""Model folder -> policy, reference and value network, and what they say of a pack of tokens.

The output layer is never applied to a whole pack here: `hidden_states` ends before it, and the caller
turns the places it needs into log-probabilities. Trains nothing, scores nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from rlef_lightning.models.attention import packed_arguments
from rlef_lightning.models.reading import local_part, read_weights
from rlef_lightning.models.skeleton import give_memory, skeleton

Result = TypeVar("Result")

HEAD_SCALE = 0.1
"""Size of a fresh value network's first guesses: within reach of the value clip of 0.2."""


class PackedTokens(Protocol):
    """The token layout of a pack: T tokens of N sequences, M turns, R response tokens."""

    @property
    def token_ids(self) -> Tensor:
        """[T] int64."""

    @property
    def position_ids(self) -> Tensor:
        """[T] int64, from 0 in each sequence."""

    @property
    def cu_seqlens(self) -> Tensor:
        """[N + 1] int32, from 0 to T."""

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest sequence."""

    @property
    def response_index(self) -> Tensor:
        """[R] int64: the places whose hidden states predict the response tokens."""

    @property
    def value_index(self) -> Tensor:
        """[M] int64: the last prompt token of each turn."""


def hidden_states(model: PreTrainedModel, packed: PackedTokens) -> Tensor:
    """The backbone's last hidden states, after its final norm and before the output layer: [T, H].

    `model` is a causal language model or its backbone, loaded by this file.
    """
    output = model.base_model(
        input_ids=packed.token_ids[None],
        position_ids=packed.position_ids[None],
        use_cache=False,
        **packed_arguments(packed.cu_seqlens, packed.max_seqlen),
    )
    return output.last_hidden_state[0]


class PolicyNetwork(nn.Module):
    """A causal language model whose output layer is used inside its own forward pass.

    Sharding strategies gather a module's weights for the length of its forward call; a caller that
    reached for the output layer afterwards would find a shard.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, packed: PackedTokens, head: Callable[[Tensor, Tensor], Result]) -> Result:
        """`head(hidden [R, H], lm_head_weight [V, H])` at the places that predict response tokens."""
        hidden = hidden_states(self.model, packed)[packed.response_index]
        return head(hidden, self.model.get_output_embeddings().weight)


class ValueHead(nn.Linear):
    """A linear map from a hidden state to one number (RLEF, sec. 2.2)."""

    def __init__(self, model: PreTrainedModel, seed: int, dtype: torch.dtype | None = None) -> None:
        """Its weights are normal with std 0.1 / sqrt(H), from `seed`; its bias is 0.

        Hidden states after the final norm are about sqrt(H) long, so first values are about 0.1. In the
        model's own number format if no other is given.
        """
        weight = model.get_input_embeddings().weight
        super().__init__(model.config.hidden_size, 1, device=weight.device, dtype=dtype or weight.dtype)
        self.reset(seed)

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Draw the head anew; the same seed gives the same head on every device."""
        generator = torch.Generator("cpu").manual_seed(seed)
        size = self.in_features
        # Lightning makes a GPU the default device here, with which a CPU's generator does not go together.
        drawn = torch.randn(1, size, generator=generator, device="cpu") * (HEAD_SCALE / size**0.5)
        local, part = local_part(self.weight)
        local.copy_(drawn[part])
        local_part(self.bias)[0].zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """[M, H] -> [M] float32, in units of reward."""
        values = super().forward(hidden.to(self.weight.dtype)).float()
        # FSDP2 hooks the outputs of a module, and an in-place change of a view would drop its hook.
        return values.squeeze(-1).clone()


class PolicyValueNetwork(PolicyNetwork):
    """A policy with a value head on its own hidden states: one forward pass gives both.

    In a backward pass of the values the gradient goes on into the policy's weights.
    """

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        super().__init__(model)
        self.value_head = ValueHead(model, seed, torch.float32)  # whatever a frozen base has

    def reset_head(self, seed: int) -> None:
        """Draw the head anew."""
        self.value_head.reset(seed)

    def forward(
        self,
        packed: PackedTokens,
        head: Callable[[Tensor, Tensor], Any],
        value_index: Tensor | None = None,
    ) -> Any:
        """As the policy's; with `value_index` [M] a pair: that, and the values at these places [M]."""
        hidden = hidden_states(self.model, packed)
        said = head(hidden[packed.response_index], self.model.get_output_embeddings().weight)
        return said if value_index is None else (said, self.value_head(hidden[value_index]))


class ValueNetwork(nn.Module):
    """The backbone of a language model with a linear map to one number (RLEF, sec. 2.2)."""

    def __init__(self, backbone: PreTrainedModel, seed: int) -> None:
        """The head is drawn from `seed`."""
        super().__init__()
        self.backbone = backbone
        self.head = ValueHead(backbone, seed)

    def reset_head(self, seed: int) -> None:
        """Draw the head anew."""
        self.head.reset(seed)

    def forward(self, packed: PackedTokens) -> Tensor:
        """V at the last prompt token of each turn: [M] float32, in units of reward."""
        values: Tensor = self.head(hidden_states(self.backbone, packed)[packed.value_index])
        return values


def load_policy(
    path: str | Path, dtype: torch.dtype = torch.float32, setting: str = "model.path"
) -> PreTrainedModel:
    """The causal language model in a Hugging Face folder, with packed attention; local files only.

    Raises CheckpointError, naming the folder and `setting`, when it is missing, unreadable or
    incomplete.
    """
    return _load(AutoModelForCausalLM, path, dtype, setting)


def load_reference(
    path: str | Path, dtype: torch.dtype = torch.float32, setting: str = "model.path"
) -> PreTrainedModel:
    """The frozen initial policy: like `load_policy`, in evaluation mode and without gradients."""
    return load_policy(path, dtype, setting).requires_grad_(False).eval()


def load_value(
    path: str | Path, dtype: torch.dtype = torch.float32, seed: int = 0, setting: str = "model.path"
) -> ValueNetwork:
    """A value network that starts from the language model in a folder, with a head drawn from `seed`.

    Raises CheckpointError like `load_policy`.
    """
    return ValueNetwork(_load(AutoModel, path, dtype, setting), seed)


def _load(kind: Any, path: str | Path, dtype: torch.dtype, setting: str) -> PreTrainedModel:
    model = skeleton(kind, path, dtype, setting)
    give_memory(model, model, "cpu")
    read_weights(model, path, model.base_model_prefix, setting)
    return model
