"""The loss and its gradient against a reference in plain Python floats: one token at a time, derivatives by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.losses import policy_loss, token_logprobs

LOW, HIGH, DUAL = 0.2, 0.28, 3.0


def reference_token(logprob, old, advantage, ref, kl_coefficient):
    """(loss, d loss / d logprob, clipped?, kl) of one token, case by case as the paper writes it."""
    ratio = math.exp(max(-20.0, min(20.0, logprob - old)))
    if advantage >= 0:
        clipped = advantage > 0 and ratio > 1 + HIGH
        loss, slope = (-advantage * (1 + HIGH), 0.0) if clipped else (-advantage * ratio, -advantage * ratio)
    else:
        clipped = ratio < 1 - LOW
        loss, slope = (-advantage * (1 - LOW), 0.0) if clipped else (-advantage * ratio, -advantage * ratio)
        if loss > -advantage * DUAL:
            loss, slope = -advantage * DUAL, 0.0
    kl = 0.0
    if kl_coefficient:
        d = max(-20.0, min(20.0, ref - logprob))
        kl = math.exp(d) - d - 1
        inside = -20.0 < ref - logprob < 20.0
        loss, slope = loss + kl_coefficient * kl, slope + kl_coefficient * ((1 - math.exp(d)) if inside else 0.0)
    return loss, slope, clipped, kl


number = st.floats(-6.0, -0.001).map(lambda x: round(x, 4))
tokens = st.lists(
    st.tuples(number, number, st.sampled_from([-2.5, -0.3, 0.0, 0.6, 1.9]), number, st.booleans()),
    min_size=1,
    max_size=24,
)


@given(tokens, st.sampled_from([0.0, 0.01, 0.7]))
def test_loss_and_gradient_equal_the_slow_reference(rows, kl_coefficient):
    logprob, old, advantage, ref, mask = (list(column) for column in zip(*rows, strict=True))
    logprobs_T = torch.tensor(logprob, dtype=torch.float64, requires_grad=True)
    result = policy_loss(
        logprobs_T,
        torch.tensor(old, dtype=torch.float64),
        torch.tensor(advantage, dtype=torch.float64),
        torch.tensor(mask),
        clip_low=LOW,
        clip_high=HIGH,
        kl_coefficient=kl_coefficient,
        ref_logprobs_T=torch.tensor(ref, dtype=torch.float64),
    )
    result.loss_sum.backward()
    expected = [reference_token(*row[:4], kl_coefficient) if row[4] else (0.0, 0.0, False, 0.0) for row in rows]
    assert result.loss_sum.item() == pytest.approx(sum(e[0] for e in expected), rel=1e-9, abs=1e-9)
    assert logprobs_T.grad.tolist() == pytest.approx([e[1] for e in expected], rel=1e-9, abs=1e-9)
    assert result.clipped_sum.item() == sum(e[2] for e in expected)
    assert result.kl_sum.item() == pytest.approx(sum(e[3] for e in expected), rel=1e-9, abs=1e-9)


def grpo(logprob, old, advantage, **keywords):
    logprobs_T = torch.tensor([logprob], requires_grad=True)
    mask_T = torch.tensor([True])
    result = policy_loss(
        logprobs_T, torch.tensor([old]), torch.tensor([advantage]), mask_T, clip_low=LOW, clip_high=HIGH, **keywords
    )
    result.loss_sum.backward()
    return result.loss_sum.item(), logprobs_T.grad.item()


def test_on_policy_the_gradient_is_minus_the_advantage():
    assert grpo(-1.0, -1.0, 0.8) == pytest.approx((-0.8, -0.8))


def test_a_good_token_earns_nothing_beyond_one_plus_clip_high():
    assert grpo(-0.5, -1.0, 1.0) == pytest.approx((-1.28, 0.0))


def test_a_bad_token_is_pushed_no_further_below_one_minus_clip_low():
    assert grpo(-1.5, -1.0, -1.0) == pytest.approx((0.8, 0.0))


def test_the_dual_clip_bounds_a_bad_token_whose_ratio_ran_away():
    assert grpo(-0.1, -4.0, -1.0) == pytest.approx((3.0, 0.0))


def test_a_ratio_beyond_float_range_stays_finite():
    assert grpo(-1e-3, -300.0, 1.0) == pytest.approx((-1.28, 0.0))
    assert grpo(-300.0, -1e-3, -1.0) == pytest.approx((0.8, 0.0))


def test_masked_tokens_touch_neither_loss_nor_gradient_even_where_they_are_not_finite():
    logprobs_T = torch.tensor([-1.0, -2.0], requires_grad=True)
    result = policy_loss(
        logprobs_T,
        torch.tensor([-1.0, -math.inf]),
        torch.tensor([0.5, math.nan]),
        torch.tensor([True, False]),
        clip_low=LOW,
        clip_high=HIGH,
        kl_coefficient=0.1,
        ref_logprobs_T=torch.tensor([-1.0, -math.inf]),
    )
    result.loss_sum.backward()
    assert result.loss_sum.item() == pytest.approx(-0.5)
    assert logprobs_T.grad.tolist() == pytest.approx([-0.5, 0.0])


@given(number, number)
def test_k3_is_never_negative_and_equals_its_formula(logprob, ref):
    _, _, _, kl = reference_token(logprob, logprob, 0.0, ref, 1.0)
    loss, _ = grpo(logprob, logprob, 0.0, kl_coefficient=1.0, ref_logprobs_T=torch.tensor([ref]))
    assert loss == pytest.approx(kl, rel=1e-4, abs=1e-6)
    assert loss >= 0.0


def test_log_probabilities_are_those_of_the_allowed_ids_at_the_sampling_temperature():
    logits = [[0.5, -1.0, 2.0, 9.0], [1.0, 1.0, 0.0, -3.0]]
    temperatures = [1.0, 0.5]
    got = token_logprobs(
        torch.tensor(logits), torch.tensor([2, 0]), torch.tensor(temperatures), torch.tensor([3])
    ).tolist()
    for row, token, temperature, value in zip(logits, (2, 0), temperatures, got, strict=True):
        allowed = [math.exp(row[i] / temperature) for i in (0, 1, 2)]
        assert value == pytest.approx(math.log(allowed[token] / sum(allowed)), abs=1e-6)


def test_a_forbidden_id_gets_no_gradient():
    logits_TV = torch.zeros(1, 4, requires_grad=True)
    token_logprobs(logits_TV, torch.tensor([1]), torch.ones(1), torch.tensor([0, 3])).sum().backward()
    assert logits_TV.grad.tolist() == [[0.0, 0.5, -0.5, 0.0]]
