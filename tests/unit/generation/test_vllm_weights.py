"""Copies in the place of vLLM's loader: the same bits, or vLLM's own reload."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rlef_lightning.errors import EngineError
from rlef_lightning.generation import vllm_weights
from rlef_lightning.generation.vllm_weights import (
    NARROW,
    ROWS,
    Unknown,
    WeightsInto,
    linear,
    make_copies,
    packs,
    recipes_of,
)

Weights = list[tuple[str, Tensor]]


class UnquantizedLinearMethod:
    """Called as vLLM's: plain weights."""


class PackedMethod:
    """Of another name: weights in a form of its own."""


class Layer(nn.Module):
    """One parameter, filled by parts as vLLM's stacked layers are."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns), requires_grad=False)
        self.quant_method: Any = UnquantizedLinearMethod()

    def load(self, tensor: Tensor, row: int) -> None:
        self.weight.data.narrow(0, row, tensor.shape[0]).copy_(tensor)


class Model(nn.Module):
    """In the place of a model of vLLM's: q and k are stacked, of `out` this rank has half of the columns, the
    embedding has rows to fill up, and a tied output layer is left out."""

    def __init__(self, q: int = 4, k: int = 2, width: int = 6, words: int = 5, rank: int = 1) -> None:
        super().__init__()
        self.q, self.width, self.rank, self.words = q, width, rank, words
        self.qk, self.out, self.embed = Layer(q + k, width), Layer(3, width), Layer(words + 3, width)
        self.loads = 0

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.loads += 1
        for name, tensor in weights:
            getattr(self, f"_load_{name}")(tensor)

    def _load_q(self, tensor: Tensor) -> None:
        self.qk.load(tensor, 0)

    def _load_k(self, tensor: Tensor) -> None:
        self.qk.load(tensor, self.q)

    def _load_out(self, tensor: Tensor) -> None:
        self.out.load(tensor.narrow(1, self.rank * self.width, self.width), 0)

    def _load_embed(self, tensor: Tensor) -> None:
        self.embed.weight[: self.words].data.copy_(tensor)
        self.embed.weight[self.words :].data.fill_(0)

    def _load_head(self, tensor: Tensor) -> None:
        """Tied."""

    def random_weights(self, seed: int) -> Weights:
        rows = {"q": self.q, "k": self.qk.weight.shape[0] - self.q, "out": 3, "embed": self.words, "head": 5}
        draw = torch.Generator().manual_seed(seed)
        widths = {name: self.width * (2 if name == "out" else 1) for name in rows}
        return [(name, torch.randn(rows[name], widths[name], generator=draw)) for name in rows]

    def shapes(self) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in self.random_weights(0)}


sizes = st.integers(min_value=1, max_value=9)


@settings(max_examples=30, deadline=None)
@given(q=sizes, k=sizes, width=sizes, words=sizes, rank=st.integers(0, 1), seed=st.integers(0, 99))
def test_copies_leave_the_bits_that_the_loader_leaves(
    q: int, k: int, width: int, words: int, rank: int, seed: int
) -> None:
    loaded, copied = Model(q, k, width, words, rank), Model(q, k, width, words, rank)
    weights = loaded.random_weights(seed)
    loaded.load_weights(weights)
    make_copies(recipes_of(copied, copied.shapes()), weights)
    for ours, theirs in zip(copied.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_another_order_and_another_layout_of_the_same_tensors_do_not_matter() -> None:
    loaded, copied = Model(), Model()
    weights = loaded.random_weights(1)
    loaded.load_weights(weights)
    turned = [(name, tensor.t().contiguous().t()) for name, tensor in reversed(weights)]
    make_copies(recipes_of(copied, copied.shapes()), turned)
    assert all(map(torch.equal, copied.parameters(), loaded.parameters()))


def test_watching_changes_no_parameter() -> None:
    model = Model()
    model.load_weights(model.random_weights(1))
    before = [parameter.clone() for parameter in model.parameters()]
    model.embed.weight[model.words :] = 7.0
    before[2][model.words :] = 7.0
    recipes_of(model, model.shapes())
    assert all(map(torch.equal, model.parameters(), before))


def scaled(model: Model) -> None:
    model._load_q = lambda tensor: model.qk.load(tensor * 2, 0)  # type: ignore[method-assign]


def half(model: Model) -> None:
    model._load_k = lambda tensor: model.qk.load(tensor[:1], model.q)  # type: ignore[method-assign]


def twice(model: Model) -> None:
    model._load_k = lambda tensor: model.qk.load(tensor, 0)  # type: ignore[method-assign]


def added(model: Model) -> None:
    model._load_k = lambda tensor: model.qk.weight.data.add_(1)  # type: ignore[method-assign]


def replaced(model: Model) -> None:
    def load(tensor: Tensor) -> None:
        model.out.weight.data = torch.ones(tensor.shape[0], model.width)

    model._load_out = load  # type: ignore[method-assign]


def late(model: Model) -> None:
    kept: list[Tensor] = []

    def load(tensor: Tensor) -> None:
        model.qk.load(kept[0], 0)
        model.qk.load(tensor, model.q)

    model._load_q, model._load_k = kept.append, load  # type: ignore[method-assign, assignment]


def quantised(model: Model) -> None:
    model.out.quant_method = PackedMethod()


def packed(model: Model) -> None:
    handle = torch.zeros(3)
    model.out.cpu_linear = lambda x, weight, bias: x @ handle  # type: ignore[assignment]


def derives(model: Model) -> None:
    model.out.process_weights_after_loading = lambda dtype: None  # type: ignore[assignment]


def shared(model: Model) -> None:
    model.out.weight = nn.Parameter(model.qk.weight.data[:3], requires_grad=False)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (scaled, "something else of q"),
        (half, "not write all of qk.weight"),
        (twice, "parts of qk.weight twice"),
        (added, "changes parameters by aten.add_"),
        (replaced, "1 parameters other memory"),
        (late, "something else of k"),
        (quantised, "weights of the kind PackedMethod"),
        (packed, "packed weights"),
        (derives, "derives something"),
        (shared, "share their memory"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_a_list_of_copies_is_seen(spoil: Callable[[Model], None], reason: str) -> None:
    model = Model()
    spoil(model)
    with pytest.raises(Unknown, match=reason):
        recipes_of(model, model.shapes())
    assert not any(parameter.any() for parameter in model.parameters())  # they are as they were


class Reloading:
    """In the place of vllm.LLM."""

    def __init__(self, model: Model) -> None:
        self.model, self.reloads = model, 0
        self.llm_engine = SimpleNamespace(collective_rpc=self._reload)

    def _reload(self, method: str, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights"
        self.reloads += 1
        self.model.load_weights(kwargs["weights_iterator"])

    def apply_model(self, work: Callable[[nn.Module], Any]) -> list[Any]:
        return [work(self.model)]


def synced(llm: Reloading, seeds: Iterable[int]) -> WeightsInto:
    into = WeightsInto(llm, packed=True)
    for seed in seeds:
        fresh = Model()
        weights = fresh.random_weights(seed)
        fresh.load_weights(weights)
        into.load(iter(weights))
        assert all(map(torch.equal, llm.model.parameters(), fresh.parameters()))
    return into


def test_the_first_sync_is_vllms_reload_and_the_next_ones_are_copies() -> None:
    llm = Reloading(Model())
    into = synced(llm, (1, 2, 3))
    assert (llm.reloads, llm.model.loads, into.reason) == (1, 2, "")  # one load was only watched


def test_where_copies_do_not_do_vllms_reload_stays_and_the_reason_is_kept() -> None:
    llm = Reloading(Model())
    packed(llm.model)
    into = synced(llm, (1, 2, 3))
    assert (llm.reloads, into.reason) == (3, "out computes with packed weights")


def test_an_engine_without_apply_model_is_reloaded() -> None:
    llm = Reloading(Model())
    llm.apply_model = None  # type: ignore[assignment, method-assign]
    assert "NoneType" in synced(llm, (1, 2)).reason
    assert llm.reloads == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights[1:], "no new weights came for q"),
        (lambda weights: [*weights, ("bias", torch.zeros(2))], r"no place for bias of shape \(2,\)"),
        (lambda weights: [("q", torch.zeros(2, 6)), *weights[1:]], r"no place for q of shape \(2, 6\)"),
    ],
    ids=["missing", "another", "shape"],
)
def test_other_weights_than_at_first_are_an_error(change: Callable[[Weights], Weights], message: str) -> None:
    llm = Reloading(Model())
    into = synced(llm, (1,))
    with pytest.raises(EngineError, match=message):
        into.load(change(llm.model.random_weights(2)))


@pytest.mark.parametrize(
    ("config", "dtype", "threads", "cuda", "packed"),
    [
        ({"hidden_size": NARROW}, "float32", 1, False, False),
        ({"hidden_size": NARROW + 1}, "float32", 1, False, True),
        ({"hidden_size": NARROW}, "bfloat16", 1, False, True),
        ({"hidden_size": NARROW}, "float32", 2, False, True),
        ({"hidden_size": NARROW}, "float32", 1, True, True),
        ({}, "float32", 1, False, True),
        (None, "float32", 1, False, True),
    ],
)
def test_narrow_layers_in_float32_on_a_cpu_are_not_packed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Any,
    dtype: str,
    threads: int,
    cuda: bool,
    packed: bool,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(vllm_weights, "rows_alone", lambda width: True)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert packs(str(tmp_path), dtype) is packed


@pytest.mark.parametrize("rows", [1, 2, ROWS - 1, ROWS, 50])
@pytest.mark.parametrize("biased", [False, True])
def test_filled_up_rows_change_no_product(rows: int, biased: bool) -> None:
    x, weight, bias = torch.randn(rows, 6), torch.randn(5, 6), torch.randn(5) if biased else None
    expected = x @ weight.t() + (0 if bias is None else bias)
    torch.testing.assert_close(linear(x, weight, bias), expected)


def test_products_that_depend_on_their_neighbours_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wavering(x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.t() * (1 + 1e-6 * (x.shape[0] == 7))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(vllm_weights, "linear", wavering)
    assert not vllm_weights.rows_alone(16)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 16}))
    assert packs(str(tmp_path), "float32")
    monkeypatch.setattr(vllm_weights, "linear", lambda x, weight: x[:, :1] * weight[:, 0])  # no sum at all
    assert vllm_weights.rows_alone(16)
