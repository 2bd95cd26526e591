"""RLEFModule on tiny random models, without an engine, against plain transformers and autograd."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from rlef_lightning.datamodule import EVALUATION_SAMPLING, RolloutDataModule
from rlef_lightning.errors import CheckpointError, ConfigError
from rlef_lightning.learning.minibatches import MiniBatch, make_minibatches
from rlef_lightning.learning.objectives import GRPO, PPO, TokenValuePPO
from rlef_lightning.module import RLEFModule
from rlef_lightning.rollout import PlaySettings
from rlef_lightning.types import (
    Completion,
    Episode,
    Limits,
    Report,
    Sampling,
    StopReason,
    TestResult,
    Turn,
    Verdict,
)

VOCABULARY = 61
OK, WRONG = Verdict.ACCEPTED, Verdict.WRONG_ANSWER

Shape = tuple[tuple[int, int, Verdict | None], ...]
"""Of an episode: prompt tokens, response tokens and public verdict (None: no code) of each turn."""
SHAPES: tuple[Shape, ...] = (
    ((5, 4, WRONG), (3, 2, OK)),
    ((6, 3, None), (2, 5, WRONG), (2, 3, WRONG)),
    ((4, 6, OK),),
    ((7, 1, WRONG), (1, 4, None)),
)


@pytest.fixture(scope="module", params=["untied", "tied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama, with a reduced spread of weights that still gives visible differences."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        tie_word_embeddings=request.param == "tied",
    )
    path = tmp_path_factory.mktemp("llama") / request.param
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def built(folder: Path, **options: Any) -> RLEFModule:
    module = RLEFModule(str(folder), **options)
    module.configure_model()
    return module


def naive_logprobs(folder: Path, ids: Sequence[int], temperature: float = 1.0) -> Tensor:
    """Of each token after the first, by transformers' own attention and output layer."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    return logprobs_of(model, ids, temperature).detach()


def logprobs_of(model: Any, ids: Sequence[int], temperature: float) -> Tensor:
    tokens = torch.tensor(ids)
    logits = model(tokens[None]).logits[0, :-1] / temperature
    return logits.log_softmax(-1).gather(-1, tokens[1:, None])[:, 0]


def result(verdict: Verdict) -> Report:
    return Report(
        results=(
            TestResult(verdict=verdict, stdout="", stderr="", cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0),
        )
    )


def episode(shape: Shape, seed: int, logprob: float = -1.0) -> Episode:
    """Random tokens; the last turn's program passes the private tests if it passed the public ones."""
    draw = torch.Generator().manual_seed(seed)
    past: tuple[int, ...] = ()
    turns = []
    for prompt_count, response_count, verdict in shape:
        new = torch.randint(VOCABULARY, (prompt_count + response_count,), generator=draw).tolist()
        prompt, response = past + tuple(new[:prompt_count]), tuple(new[prompt_count:])
        turns.append(
            Turn(
                prompt_token_ids=prompt,
                completion=Completion(
                    token_ids=response,
                    logprobs=(logprob,) * response_count,
                    finish_reason="stop",
                    policy_version=1,
                ),
                response="",
                code=None if verdict is None else "pass",
                public_report=None if verdict is None else result(verdict),
                feedback=None,
            )
        )
        past = prompt + response
    return Episode(
        problem_id="p",
        sample_index=0,
        seed=seed,
        turns=tuple(turns),
        private_report=result(OK) if turns[-1].passed_public else None,
        stop_reason=StopReason.TURN_LIMIT,
    )


def episodes() -> list[Episode]:
    return [episode(shape, seed) for seed, shape in enumerate(SHAPES)]


def response_places(played: Episode) -> list[int]:
    """The places of sampled tokens in the whole sequence, less one: in the list of log-probabilities."""
    return [
        len(turn.prompt_token_ids) + i - 1
        for turn in played.turns
        for i in range(len(turn.completion.token_ids))
    ]


def whole(played: Episode) -> tuple[int, ...]:
    return played.turns[-1].prompt_token_ids + played.turns[-1].completion.token_ids


def disturb(network: torch.nn.Module, size: float = 0.02) -> None:
    """Move every weight a little: a policy that has been trained."""
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw), alpha=size)


class Recorder:
    """In the place of optimizer and schedule: keeps the gradients of each step and moves nothing."""

    def __init__(self, module: RLEFModule) -> None:
        self.module = module
        self.gradients: list[dict[str, Tensor]] = []
        self.param_groups = [{"lr": 0.125}]

    def zero_grad(self) -> None:
        self.module.zero_grad()

    def step(self) -> None:
        weights = self.module.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in weights if p.grad is not None})


@pytest.fixture
def training_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`step(module, batch) -> gradients`: a training step without a Trainer around it."""

    def step(module: RLEFModule, batch: MiniBatch, *, last: bool = False) -> dict[str, Tensor]:
        recorder = Recorder(module)
        monkeypatch.setattr(module, "optimizers", lambda: recorder)
        monkeypatch.setattr(module, "lr_schedulers", lambda: SimpleNamespace(step=lambda: None))
        monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
        monkeypatch.setattr(module, "_trainer", SimpleNamespace(is_last_batch=last))
        module.training_step(batch, 0)
        return recorder.gradients[0]

    return step


# ---- defaults ------------------------------------------------------------------------------------


def defaults_of(function: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def test_the_papers_numbers_are_the_defaults() -> None:
    """RLEF, sec. 2 to 4 and 6."""
    module, data = defaults_of(RLEFModule.__init__), defaults_of(RolloutDataModule.__init__)
    assert (module["learning_rate"], module["weight_decay"], module["warmup_steps"]) == (2e-7, 0.1, 50)
    assert module["objective"] == PPO()
    assert (data["problems_per_epoch"], data["minibatches_per_epoch"]) == (1024, 4)
    assert data["play"] == PlaySettings(turn_limit=3, sampling=Sampling(temperature=1.0, top_p=1.0))
    assert Sampling(temperature=0.2, top_p=0.95) == EVALUATION_SAMPLING
    assert (data["validation"].play.sampling, data["validation"].play.turn_limit) == (EVALUATION_SAMPLING, 3)
    assert (data["validation"].n, data["validation"].k) == (1, 3)
    assert (Limits().cpu_s, Limits().memory_bytes) == (10.0, 1 << 30)


# ---- scoring -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_policy_logprobs_equal_those_of_plain_transformers(folder: Path, temperature: float) -> None:
    played = episodes()
    scored = built(folder).score(played, temperature)
    assert len(scored.samples) == len(played)
    for sample, one in zip(scored.samples, played, strict=True):
        expected = naive_logprobs(folder, whole(one), temperature)[response_places(one)]
        assert sample.token_ids == whole(one)
        assert sample.behaviour_logprobs == (-1.0,) * len(expected)
        torch.testing.assert_close(torch.tensor(sample.policy_logprobs), expected, atol=1e-5, rtol=1e-5)


def test_sequence_logprobs_equal_those_of_plain_transformers(folder: Path) -> None:
    sequences = [whole(one) for one in episodes()]
    for found, ids in zip(built(folder).sequence_logprobs(sequences), sequences, strict=True):
        assert len(found) == len(ids) - 1
        torch.testing.assert_close(torch.tensor(found), naive_logprobs(folder, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_targets_of_the_initial_policy_are_sums_of_rewards(folder: Path, temperature: float) -> None:
    """Policy and reference are one network, so the KL part is 0 and only task rewards are left.

    Episode 0: 0, +1. Episode 1: -0.2 (no code), 0, -1. Episode 2: +1. Episode 3: 0, -1 (no code, but last).
    """
    scored = built(folder).score(episodes(), temperature)
    targets = [[span.value_target for span in sample.spans] for sample in scored.samples]
    assert targets == [[1.0, 1.0], pytest.approx([-1.2, -1.0, -1.0]), [1.0], [-1.0, -1.0]]
    assert scored.metrics["kl"] == 0.0
    assert scored.metrics["return"] == pytest.approx((1 - 1.2 + 1 - 1) / 4)


def test_the_reward_contains_the_kl_to_the_initial_policy(folder: Path) -> None:
    module = built(folder, objective=PPO(beta=0.5))
    disturb(module.policy)
    played = episodes()[1]
    sample = module.score([played], 1.0).samples[0]
    reference = naive_logprobs(folder, whole(played))[response_places(played)]
    with torch.no_grad():
        policy = logprobs_of(module.policy.model, whole(played), 1.0)[response_places(played)]
    # Three responses of 3, 5 and 3 tokens; R_t = r_t - 0.5 * mean log-ratio, rewards -0.2, 0, -1.
    ratios = [part.mean().item() for part in (policy - reference).split([3, 5, 3])]
    assert min(map(abs, ratios)) > 1e-3
    parts = [reward - 0.5 * ratio for reward, ratio in zip((-0.2, 0.0, -1.0), ratios, strict=True)]
    expected = [sum(parts), sum(parts[1:]), parts[2]]
    assert [span.value_target for span in sample.spans] == pytest.approx(expected, abs=1e-5)


def test_advantages_are_normalised_over_all_turns(folder: Path) -> None:
    raw = built(folder, objective=PPO(normalisation="none")).score(episodes(), 1.0)
    for sample in raw.samples:
        for span in sample.spans:
            assert span.advantage == pytest.approx(span.value_target - span.value, abs=1e-6)
    scored = built(folder).score(episodes(), 1.0)
    advantages = torch.tensor([span.advantage for sample in scored.samples for span in sample.spans])
    assert len(advantages) == 8
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert advantages.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)


def test_mismatch_is_between_engine_and_trainer(folder: Path) -> None:
    played = episodes()[2]
    scored = built(folder).score([played], 1.0)
    distance = (naive_logprobs(folder, whole(played))[response_places(played)] + 1.0).abs()
    assert scored.metrics["mismatch_max"] == pytest.approx(distance.max().item(), abs=1e-5)
    assert scored.metrics["mismatch_mean"] == pytest.approx(distance.mean().item(), abs=1e-5)


def test_scores_do_not_depend_on_the_packing(folder: Path) -> None:
    # The episodes have 14, 21, 10 and 13 tokens.
    one_by_one = built(folder, pack_tokens=21).score(episodes(), 1.0)
    together = built(folder, pack_tokens=1000).score(episodes(), 1.0)
    for a, b in zip(one_by_one.samples, together.samples, strict=True):
        assert a.policy_logprobs == pytest.approx(b.policy_logprobs, abs=1e-5)
        assert [s.value for s in a.spans] == pytest.approx([s.value for s in b.spans], abs=1e-5)
    assert one_by_one.metrics == pytest.approx(together.metrics, abs=1e-5)


# ---- updating ------------------------------------------------------------------------------------


def test_the_first_update_follows_the_plain_policy_gradient(folder: Path, training_step: Any) -> None:
    """At ratio 1 and without staleness the gradient is that of -sum(A * log-probability) / tokens."""
    module = built(folder, gradient_clip_norm=None)
    first = module.score(episodes(), 1.0)
    # Sampled by the very weights that are trained: behaviour and policy are one.
    played = [
        episode_with(one, sample.policy_logprobs)
        for one, sample in zip(episodes(), first.samples, strict=True)
    ]
    samples = module.score(played, 1.0).samples
    (batch,) = make_minibatches(samples, 1, pack_tokens=30, seed=0)
    found = training_step(module, batch)

    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    for one, sample in zip(played, samples, strict=True):
        logprobs = logprobs_of(plain, whole(one), 1.0)[response_places(one)]
        counts = [span.stop - span.start for span in sample.spans]
        advantages = torch.tensor([span.advantage for span in sample.spans])
        shared = advantages.repeat_interleave(torch.tensor(counts))
        (-(shared * logprobs).sum() / 28).backward()  # 28 response tokens in all
    assert batch.response_tokens == 28
    expected = {f"policy.model.{name}": weight.grad for name, weight in plain.named_parameters()}
    policy = {name: gradient for name, gradient in found.items() if name.startswith("policy.")}
    assert policy.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(policy[name], gradient, atol=1e-5, rtol=1e-4)


def episode_with(played: Episode, logprobs: Sequence[float]) -> Episode:
    """The episode with these log-probabilities of the policy that sampled."""
    from dataclasses import replace

    left = iter(logprobs)
    turns = []
    for turn in played.turns:
        own = tuple(next(left) for _ in turn.completion.token_ids)
        turns.append(replace(turn, completion=replace(turn.completion, logprobs=own)))
    return replace(played, turns=tuple(turns))


def test_gradients_do_not_depend_on_the_packing(folder: Path, training_step: Any) -> None:
    """Of both networks, for a policy that has moved since the collection."""
    module = built(folder, gradient_clip_norm=None)
    samples = module.score(episodes(), 1.0).samples
    disturb(module.policy)
    disturb(module.value)
    sums = []
    for pack_tokens, packs in ((21, 4), (1000, 1)):
        (batch,) = make_minibatches(samples, 1, pack_tokens, seed=0)
        assert len(batch.packs) == packs
        sums.append(training_step(module, batch))
    small, large = sums
    assert {name.split(".")[0] for name in small} == {"policy", "value"}
    assert small.keys() == large.keys()
    for name, gradient in large.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(small[name], gradient, atol=1e-6, rtol=1e-5)


def test_the_temperature_is_that_of_sampling(folder: Path, training_step: Any) -> None:
    """With log-probabilities at temperature 0.5 on both sides the ratio is 1, and nothing is clipped."""
    module = built(folder)
    samples = module.score(episodes(), 0.5).samples
    shown: dict[float, float] = {}
    for temperature in (0.5, 1.0):
        (batch,) = make_minibatches(samples, 1, 1000, seed=0, temperature=temperature)
        shown[temperature] = logged(module, lambda batch=batch: training_step(module, batch, last=True))[
            "train/update_kl"
        ]
    assert shown[0.5] == pytest.approx(0.0, abs=1e-6)
    assert shown[1.0] > 0.01


def logged(module: RLEFModule, work: Any) -> dict[str, float]:
    """What `work` logs."""
    found: dict[str, float] = {}
    module.log_dict = lambda numbers, **options: found.update(numbers)
    work()
    return found


def test_the_log_holds_means_over_the_steps(folder: Path, training_step: Any) -> None:
    module = built(folder)
    samples = module.score(episodes(), 1.0).samples
    first, second = make_minibatches(samples, 2, 1000, seed=0)
    alone = [
        logged(module, lambda batch=batch: training_step(module, batch, last=True))
        for batch in (first, second)
    ]
    assert logged(module, lambda: training_step(module, first)) == {}
    both = logged(module, lambda: training_step(module, second, last=True))
    for name in ("train/policy_loss", "train/value_loss", "train/gradient_norm_value"):
        assert both[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2)
        assert alone[0][name] != pytest.approx(alone[1][name])
    assert both["train/learning_rate"] == 0.125


def test_each_network_is_clipped_by_itself(folder: Path, training_step: Any) -> None:
    module = built(folder, gradient_clip_norm=0.01)
    (batch,) = make_minibatches(module.score(episodes(), 1.0).samples, 1, 1000, seed=0)
    gradients = training_step(module, batch)
    for network in ("policy", "value"):
        parts = [gradient for name, gradient in gradients.items() if name.startswith(f"{network}.")]
        norm = torch.stack([part.norm() for part in parts]).norm().item()
        assert norm == pytest.approx(0.01, rel=1e-3)


def test_the_reference_is_never_trained(folder: Path, training_step: Any) -> None:
    module = built(folder)
    (batch,) = make_minibatches(module.score(episodes(), 1.0).samples, 1, 1000, seed=0)
    assert not any(name.startswith("reference.") for name in training_step(module, batch))
    optimizer = module.configure_optimizers()["optimizer"]
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert not trained & {id(weight) for weight in module.reference.parameters()}
    assert trained == {id(w) for net in (module.policy, module.value) for w in net.parameters()}


@pytest.mark.parametrize(("own", "expected"), [(None, 0.5), (0.25, 0.25)])
def test_one_optimizer_with_a_group_for_each_network(
    folder: Path, own: float | None, expected: float
) -> None:
    module = built(folder, learning_rate=0.5, value_learning_rate=own, warmup_steps=1, weight_decay=0.3)
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("policy", 0.5, 0.3),
        ("value", expected, 0.3),
    ]


def test_the_warm_up_is_linear_and_then_constant(folder: Path) -> None:
    module = built(folder, learning_rate=1.0, warmup_steps=4)
    optimizers = module.configure_optimizers()
    rates = []
    for _ in range(6):
        rates.append(optimizers["optimizer"].param_groups[0]["lr"])
        optimizers["optimizer"].step()
        optimizers["lr_scheduler"].step()
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


# ---- other objectives ----------------------------------------------------------------------------


def test_without_values_there_is_no_value_network(folder: Path, training_step: Any) -> None:
    module = built(folder, objective=GRPO(kl="loss", kl_estimator="k3"))
    assert module.value is None
    assert [g["name"] for g in module.configure_optimizers()["optimizer"].param_groups] == ["policy"]
    scored = module.score(episodes(), 1.0)
    assert "value_explained_variance" not in scored.metrics
    assert [span.value for sample in scored.samples for span in sample.spans] == [0.0] * 8
    disturb(module.policy)
    (batch,) = make_minibatches(scored.samples, 1, 1000, seed=0)
    shown = logged(module, lambda: training_step(module, batch, last=True))
    assert shown["train/loss_kl"] > 0
    assert not any("value" in name for name in shown)


@pytest.mark.parametrize(
    "objective", [GRPO(kl="loss", kl_estimator="k3"), TokenValuePPO()], ids=["grpo", "tokens"]
)
def test_gradients_of_other_objectives_do_not_depend_on_the_packing(
    folder: Path, training_step: Any, objective: Any
) -> None:
    module = built(folder, gradient_clip_norm=None, objective=objective)
    samples = module.score(episodes(), 1.0).samples
    disturb(module.policy)
    small, large = (
        training_step(module, make_minibatches(samples, 1, pack_tokens, seed=0)[0])
        for pack_tokens in (21, 1000)
    )
    assert ({name.split(".")[0] for name in small} == {"policy"}) == (objective.value_level is None)
    for name, gradient in large.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(small[name], gradient, atol=1e-6, rtol=1e-5)


def test_token_values_are_those_of_the_places_before_the_tokens(folder: Path) -> None:
    module = built(folder, objective=TokenValuePPO(gae_lambda=1.0, normalisation="none"))
    scored = module.score(episodes(), 1.0)
    turns = built(folder, objective=PPO(normalisation="none")).score(episodes(), 1.0)
    for one, tokens, whole_turns in zip(episodes(), scored.samples, turns.samples, strict=True):
        assert [span.start - 1 for span in tokens.spans] == response_places(one)
        by_start = {span.start: span for span in tokens.spans}
        for span in whole_turns.spans:
            assert by_start[span.start].value == pytest.approx(span.value, abs=1e-6)
            assert by_start[span.start].value_target == pytest.approx(span.value_target, abs=1e-6)
    assert scored.metrics["return"] == turns.metrics["return"]


# ---- building ------------------------------------------------------------------------------------


def test_building_twice_keeps_the_networks(folder: Path) -> None:
    module = built(folder)
    before = (module.policy, module.reference, module.value)
    module.configure_model()
    assert all(a is b for a, b in zip(before, (module.policy, module.reference, module.value), strict=True))


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_only_the_policy_is_loaded_where_nothing_is_trained(folder: Path, command: str) -> None:
    module = RLEFModule(str(folder))
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn=command))
    module.configure_model()
    assert module.policy is not None
    assert (module.reference, module.value) == (None, None)


def test_the_reference_has_a_number_format_of_its_own(folder: Path) -> None:
    module = built(folder, reference_dtype="bfloat16")
    assert {weight.dtype for weight in module.reference.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in module.policy.parameters()} == {torch.float32}


def test_reference_and_value_network_may_start_from_other_folders(folder: Path, tmp_path: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(folder)
    disturb(other)
    other.save_pretrained(tmp_path)
    module = built(folder, reference_folder=str(tmp_path), value_folder=str(tmp_path))
    wanted = other.model.embed_tokens.weight
    assert torch.equal(module.reference.model.get_input_embeddings().weight, wanted)
    assert torch.equal(module.value.backbone.get_input_embeddings().weight, wanted)
    assert not torch.equal(module.policy.model.get_input_embeddings().weight, wanted)


def test_a_folder_for_a_network_that_is_not_there_is_refused(folder: Path) -> None:
    module = RLEFModule(str(folder), value_folder=str(folder), value_network="shared")
    with pytest.raises(ConfigError, match=r"of a value network of its own, and this run has none"):
        module.check_folders(64)


def test_a_missing_folder_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere is not a model folder.*`model\.model_folder`"):
        built(tmp_path / "nowhere")


def test_the_engine_gets_the_present_policy_under_the_names_of_its_checkpoint(folder: Path) -> None:
    module = built(folder)
    disturb(module.policy)
    weights = dict(module.engine_weights())
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= weights.keys()
    for name, weight in module.policy.model.named_parameters():
        assert torch.equal(weights[name], weight)


# ---- checkpoints ---------------------------------------------------------------------------------


def checkpoint_of(module: RLEFModule) -> dict[str, Any]:
    return {"state_dict": module.state_dict()}


def test_the_reference_is_not_in_the_checkpoint(folder: Path) -> None:
    module = built(folder)
    assert module.reference is not None
    assert {name.split(".")[0] for name in checkpoint_of(module)["state_dict"]} == {"policy", "value"}


def test_a_fitting_checkpoint_is_taken(folder: Path) -> None:
    module, other = built(folder), built(folder, seed=5)
    disturb(other.policy)
    checkpoint = checkpoint_of(other)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    assert torch.equal(module.value.head.weight, other.value.head.weight)
    ids = [whole(episodes()[0])]
    assert module.sequence_logprobs(ids) == other.sequence_logprobs(ids)


@pytest.mark.parametrize("name", ["policy.model.model.norm.weight", "value.head.bias"])
def test_a_checkpoint_without_a_weight_is_refused(folder: Path, name: str) -> None:
    module = built(folder)
    checkpoint = checkpoint_of(module)
    del checkpoint["state_dict"][name]
    with pytest.raises(CheckpointError, match=rf"{name} is missing there and \(\d+,\) here") as failure:
        module.on_load_checkpoint(checkpoint)
    assert f"model.model_folder={str(folder)!r}" in str(failure.value)


def test_a_checkpoint_of_another_shape_is_refused(folder: Path) -> None:
    module = built(folder)
    checkpoint = checkpoint_of(module)
    checkpoint["state_dict"]["value.head.weight"] = torch.zeros(1, 16)
    with pytest.raises(
        CheckpointError, match=r"weight value\.head\.weight is \(1, 16\) there and \(1, 32\) here"
    ):
        module.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize(("writes", "reads"), [(PPO(), GRPO()), (GRPO(), PPO())], ids=["ppo", "grpo"])
def test_a_checkpoint_of_an_objective_with_other_networks_is_refused(
    folder: Path, writes: Any, reads: Any
) -> None:
    checkpoint = checkpoint_of(built(folder, objective=writes))
    with pytest.raises(
        CheckpointError, match=rf"value network, which model\.objective={type(reads).__name__}"
    ):
        built(folder, objective=reads).on_load_checkpoint(checkpoint)


def test_any_checkpoint_is_evaluated(folder: Path) -> None:
    module = RLEFModule(str(folder))
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn="test"))
    module.configure_model()
    module.on_load_checkpoint(checkpoint_of(built(folder)))
    module.on_load_checkpoint(checkpoint_of(built(folder, objective=GRPO())))
