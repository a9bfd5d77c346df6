"""Splits: which patients are for training, validation and test.

Role: patient-disjoint by construction, seeded. Input: patient identifiers. Output: a split for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from schemas.prompt import Split

_HELD_OUT_SHARE = 0.1
"""Share of patients in validation, and again in test."""

_HASH_SEED = 0


def split_patients(patient_ids: Sequence[str], seed: int) -> dict[str, Split]:
    """Exact shares of a closed set of patients, at least one in each split if there are three or more."""
    order = np.random.default_rng([seed, len(patient_ids)]).permutation(len(patient_ids))
    held_out = max(1, round(_HELD_OUT_SHARE * len(patient_ids))) if len(patient_ids) >= 3 else 0
    splits: dict[str, Split] = dict.fromkeys(patient_ids, "train")
    for index in order[:held_out]:
        splits[patient_ids[index]] = "test"
    for index in order[held_out : 2 * held_out]:
        splits[patient_ids[index]] = "validation"
    return splits


def hash_split(patient_id: str) -> Split:
    """A split that depends on the patient alone, so that a data set may grow without anybody changing sides."""
    digest = hashlib.sha256(f"{_HASH_SEED}:{patient_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < _HELD_OUT_SHARE:
        return "test"
    return "validation" if share < 2 * _HELD_OUT_SHARE else "train"
