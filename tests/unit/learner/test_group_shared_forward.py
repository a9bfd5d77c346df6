"""The shared row against plain rows: transformers' own forward, a completion at a time, no mask, no positions given."""

import numpy as np
import pytest
import torch
from learner_cases import make_conversations, make_group, make_prompt, special_ids

from learner.batching import conversation_rows, group_batch
from learner.policy import Policy
from schemas.group import RolloutGroup
from schemas.processed import ProcessedPrompt

PICTURES = {"text only": (), "one picture": ((4, 6),), "two pictures": ((4, 4), (6, 8))}


def plain_logits(policy: Policy, ids: list[int], processed: ProcessedPrompt) -> torch.Tensor:
    """transformers' logits for one plain row, [len(ids), V]."""
    ids_1L = torch.tensor([ids])
    pictures = {}
    if len(processed.image_grid_thw_I3):
        pictures = {
            "pixel_values": torch.from_numpy(processed.pixel_values_ND),
            "image_grid_thw": torch.from_numpy(processed.image_grid_thw_I3),
            "mm_token_type_ids": (ids_1L == policy.model.config.image_token_id).long(),
        }
    return policy.model(input_ids=ids_1L, **pictures).logits[0]


def plain_logprobs(policy: Policy, group: RolloutGroup, processed: ProcessedPrompt) -> torch.Tensor:
    """One forward a completion; the forbidden ids cut out of the logits by hand."""
    prompt = processed.input_ids_P.tolist()
    forbidden = sorted(special_ids_of(policy))
    parts = []
    for completion in group.completions:
        tokens = list(completion.token_ids)
        if not tokens:
            continue
        logits_TV = plain_logits(policy, prompt + tokens, processed)[len(prompt) - 1 : -1] / group.sampling.temperature
        allowed = torch.tensor([i for i in range(logits_TV.shape[1]) if i not in forbidden])
        chosen_T = logits_TV[range(len(tokens)), tokens]
        parts.append(chosen_T - logits_TV[:, allowed].logsumexp(1))
    return torch.cat(parts)


def special_ids_of(policy: Policy) -> frozenset[int]:
    return policy.facts().forbidden_ids


def gradients(policy: Policy, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    policy.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in policy.named_parameters()}


@pytest.mark.parametrize("pictures", PICTURES.values(), ids=PICTURES.keys())
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_gradients_equal_those_of_plain_rows(
    policy: Policy, model_path: str, pictures: tuple[tuple[int, int], ...], temperature: float
):
    rng = np.random.default_rng(3)
    processed = make_prompt(model_path, rng, pictures)
    group = make_group("g", processed, rng, lengths=(5, 1, 0, 9), temperature=temperature)
    batch = group_batch([(group, processed)], [0], policy.facts())
    weights_T = torch.from_numpy(rng.standard_normal(15)).float()
    shared_T = policy(batch.rows, True)
    plain_T = plain_logprobs(policy, group, processed)
    torch.testing.assert_close(shared_T, plain_T, atol=1e-5, rtol=0)
    shared = gradients(policy, (shared_T * weights_T).sum())
    plain = gradients(policy, (plain_T * weights_T).sum())
    for name, gradient in plain.items():
        assert (shared[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_groups_of_all_shapes_share_a_padded_batch_without_touching_each_other(policy: Policy, model_path: str):
    rng = np.random.default_rng(5)
    groups = []
    for number, pictures in enumerate(PICTURES.values()):
        processed = make_prompt(model_path, rng, pictures, text_tokens=4 + 3 * number)
        groups.append((make_group(f"g{number}", processed, rng, lengths=(3 + number, 6)), processed))
    with torch.no_grad():
        together_T = policy(group_batch(groups, [2, 0, 1], policy.facts()).rows, True)
        alone_T = torch.cat([plain_logprobs(policy, *groups[i]) for i in (2, 0, 1)])
    torch.testing.assert_close(together_T, alone_T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head_slices", [3, 40])
def test_a_sliced_head_gives_the_same_numbers_and_gradients(policy: Policy, model_path: str, head_slices: int):
    rng = np.random.default_rng(7)
    processed = make_prompt(model_path, rng)
    rows = group_batch([(make_group("g", processed, rng), processed)], [0], policy.facts()).rows
    whole_T = policy(rows, True)
    whole = gradients(policy, whole_T.sum())
    sliced_T = policy(rows, True, head_slices)
    sliced = gradients(policy, sliced_T.sum())
    torch.testing.assert_close(sliced_T, whole_T, atol=1e-6, rtol=0)
    for name, gradient in whole.items():
        assert (sliced[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_rows_without_pictures_still_give_every_vision_parameter_a_gradient_of_zero(policy: Policy, model_path: str):
    rng = np.random.default_rng(9)
    processed = make_prompt(model_path, rng, ())
    rows = group_batch([(make_group("g", processed, rng), processed)], [0], policy.facts()).rows
    policy.zero_grad()
    policy(rows, True).sum().backward()
    tower = {n: p.grad for n, p in policy.named_parameters() if ".visual." in n}
    without = [name for name, gradient in tower.items() if gradient is None]
    assert tower
    assert without == []
    assert all(not gradient.any() for gradient in tower.values())


def test_the_sft_loss_is_cross_entropy_on_the_answers_tokens_only(policy: Policy, model_path: str):
    conversations = make_conversations(model_path, 4)
    expected = 0.0
    with torch.no_grad():
        loss = -policy(conversation_rows(conversations, policy.facts()), False).sum()
        for conversation in conversations:
            ids = conversation.prompt.input_ids_P.tolist()
            logits_LV = plain_logits(policy, ids, conversation.prompt)
            for position in np.flatnonzero(conversation.loss_mask_P):
                expected -= float(logits_LV[position - 1].log_softmax(0)[ids[position]])
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_vision_tokens_are_forbidden_in_grpo(policy: Policy, model_path: str):
    assert special_ids_of(policy) == frozenset(special_ids(model_path).values())
