import dataclasses

import numpy as np
import pytest
from learner_cases import make_conversations, make_group, make_groups, make_prompt, special_ids

from learner.batching import check_group, conversation_rows, group_batch, split_by_completion
from learner.policy import Policy, load_model
from schemas.errors import DataError, LearnerError
from schemas.processed import ProcessedConversation, ProcessedPrompt


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def refused(policy: Policy, group, processed: ProcessedPrompt) -> str:
    with pytest.raises(LearnerError) as error:
        check_group(group, processed, policy.facts())
    assert "g0" in str(error.value)
    return str(error.value)


def test_whole_groups_of_every_shape_pass_the_check(policy: Policy, model_path: str):
    for group, processed in make_groups(model_path, 6):
        check_group(group, processed, policy.facts())


@pytest.mark.parametrize("field", ["input_ids_P", "pixel_values_ND"])
def test_one_changed_number_in_the_tensors_is_refused_by_fingerprint(
    policy: Policy, model_path: str, rng: np.random.Generator, field: str
):
    processed = make_prompt(model_path, rng)
    changed = getattr(processed, field).copy()
    changed.reshape(-1)[-1] += 1
    group = make_group("g0", processed, rng)
    assert "fingerprint" in refused(policy, group, dataclasses.replace(processed, **{field: changed}))


@pytest.mark.parametrize(("top_p", "top_k"), [(0.9, 0), (1.0, 50)])
def test_sampling_that_cut_the_distribution_is_refused(
    policy: Policy, model_path: str, rng: np.random.Generator, top_p: float, top_k: int
):
    processed = make_prompt(model_path, rng)
    group = make_group("g0", processed, rng)
    sampling = group.sampling.model_copy(update={"top_p": top_p, "top_k": top_k})
    assert "top_p" in refused(policy, group.model_copy(update={"sampling": sampling}), processed)


def test_greedy_sampling_is_refused(policy: Policy, model_path: str, rng: np.random.Generator):
    processed = make_prompt(model_path, rng)
    assert "greedily" in refused(policy, make_group("g0", processed, rng, temperature=0.0), processed)


def test_a_sampled_vision_token_is_refused(policy: Policy, model_path: str, rng: np.random.Generator):
    processed = make_prompt(model_path, rng)
    group = make_group("g0", processed, rng)
    first = group.completions[0]
    tampered = (special_ids(model_path)["image_token_id"], *first.token_ids[1:])
    completions = (first.model_copy(update={"token_ids": tampered}), *group.completions[1:])
    assert "forbids" in refused(policy, group.model_copy(update={"completions": completions}), processed)


def test_picture_tokens_that_do_not_equal_the_grid_are_refused_even_with_a_right_fingerprint(
    policy: Policy, model_path: str, rng: np.random.Generator
):
    whole = make_prompt(model_path, rng, ((4, 4), (4, 6)))
    swapped = dataclasses.replace(whole, image_grid_thw_I3=whole.image_grid_thw_I3[::-1].copy())
    assert "runs of picture tokens are [4, 6]" in refused(policy, make_group("g0", swapped, rng), swapped)
    short = dataclasses.replace(whole, pixel_values_ND=whole.pixel_values_ND[:-4])
    assert "patches" in refused(policy, make_group("g0", short, rng), short)


def test_columns_follow_the_completions_tokens(policy: Policy, model_path: str):
    groups = make_groups(model_path, 3)
    batch = group_batch(groups, [2, 1], policy.facts())
    completions = [c for i in (2, 1) for c in groups[i][0].completions]
    assert batch.rows.targets_T.tolist() == [t for c in completions for t in c.token_ids]
    assert batch.tokens.rollout_logprobs_T.tolist() == [v for c in completions for v in c.rollout_logprobs]
    expected_mask = [c.advantage is not None for c in completions for _ in c.token_ids]
    assert batch.tokens.loss_mask_T.tolist() == expected_mask
    assert not all(expected_mask)
    size = groups[2][0].token_count
    nested = split_by_completion(batch.tokens.rollout_logprobs_T[:size], groups[2][0])
    assert nested == [list(c.rollout_logprobs) for c in groups[2][0].completions]


def test_a_loss_mask_that_does_not_fit_is_refused(policy: Policy, model_path: str):
    good = make_conversations(model_path, 1)[0]
    for mask_P in (good.loss_mask_P[:-1], np.ones_like(good.loss_mask_P)):
        with pytest.raises(LearnerError, match="conversation 0"):
            conversation_rows([ProcessedConversation(good.prompt, mask_P)], policy.facts())


def test_a_missing_model_folder_is_the_users_error():
    import torch

    with pytest.raises(DataError, match="folder"):
        load_model("/no/such/folder", torch.float32)
