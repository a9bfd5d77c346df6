"""Annotator: what an imperfect human would have written about a phantom film.

Role: the answers of supervised fine-tuning; the paper's reason for RL in miniature.
Input: the true sentences and boxes, a seeded generator. Output: answers with loose boxes, forgotten sentences and
references to earlier films that the model can't see. The references of RL prompts stay the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from schemas.prompt import Box

LOOSE_RANGE = (1.0, 1.7)
"""How many times too wide and too high an annotator draws a box."""
FORGOTTEN_SHARE = 0.25
_PRIOR_SHARE = 0.75
_PRIOR_SENTENCES = (
    "Unchanged from the prior study.",
    "Compared with the prior study, there is no change.",
    "Compared with the prior study, unchanged findings.",
)


def loosen(box: Box, rng: np.random.Generator) -> Box:
    """A box 1.0-1.7 times too wide and too high (drawn separately), about its centre, clipped to the picture."""
    width_factor, height_factor = rng.uniform(*LOOSE_RANGE, size=2)
    grow_x = (width_factor - 1.0) * (box.x2 - box.x1) / 2
    grow_y = (height_factor - 1.0) * (box.y2 - box.y1) / 2
    return Box(
        x1=max(0.0, box.x1 - grow_x),
        y1=max(0.0, box.y1 - grow_y),
        x2=min(1.0, box.x2 + grow_x),
        y2=min(1.0, box.y2 + grow_y),
        label=box.label,
    )


def careless_report(sentences: Sequence[str], rng: np.random.Generator) -> str:
    """A report with a quarter of the sentences forgotten (never all), mostly opened by a look at an earlier film."""
    kept = [sentence for sentence in sentences if rng.uniform() >= FORGOTTEN_SHARE]
    if not kept:
        kept = [sentences[int(rng.integers(len(sentences)))]]
    if rng.uniform() < _PRIOR_SHARE:
        prior = _PRIOR_SENTENCES[int(rng.integers(len(_PRIOR_SENTENCES)))]
        kept.insert(0, prior)
    return " ".join(kept)


def annotator_corpus() -> Iterator[str]:
    """Every sentence that only the annotator writes."""
    yield from _PRIOR_SENTENCES
