"""Makes average_precision.json: AP of single images by COCO's own evaluation, all confidences 1.

Role: an independent computation for test_map50.py; run in an environment of its own with faster-coco-eval 1.8.0 and
pycocotools 2.0.11, which must agree. Input: seeded boxes on a grid of 1000. Output: the JSON beside this file.

COCO samples precision at 101 recalls. Sampled at the middles of 60 equal steps instead, the mean is the area under the
whole curve for 1 to 6 reference boxes, which is what map50 computes.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import faster_coco_eval
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Corners = list[int]
STEPS = 60


def _data(reference: list[Corners]) -> dict[str, object]:
    annotations = [
        {
            "id": index,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
        }
        for index, (x1, y1, x2, y2) in enumerate(reference, start=1)
    ]
    images = [{"id": 1, "width": 1000, "height": 1000}]
    return {"info": {}, "images": images, "categories": [{"id": 1, "name": "box"}], "annotations": annotations}


def _precisions(coco: type, evaluation: type, predicted: list[Corners], reference: list[Corners]) -> list[float]:
    """AP at each of the ten thresholds."""
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 1.0}
        for x1, y1, x2, y2 in predicted
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco()
        truth.dataset = _data(reference)
        truth.createIndex()
        evaluated = evaluation(truth, truth.loadRes(results), "bbox")
        evaluated.params.recThrs = (np.arange(STEPS) + 0.5) / STEPS
        evaluated.evaluate()
        evaluated.accumulate()
    # [threshold, recall, category, area, most detections]
    return [float(value) for value in np.asarray(evaluated.eval["precision"])[:, :, 0, 0, -1].mean(axis=1)]


def _boxes(rng: random.Random, count: int) -> list[Corners]:
    boxes = []
    while len(boxes) < count:
        (x1, x2), (y1, y2) = (sorted(rng.sample(range(0, 1001, 10), 2)) for _ in range(2))
        if x2 - x1 >= 100 and y2 - y1 >= 100:
            boxes.append([x1, y1, x2, y2])
    return boxes


def _shaken(rng: random.Random, box: Corners) -> Corners:
    return [min(1000, max(0, side + rng.randint(-40, 40))) for side in box]


def main() -> None:
    rng = random.Random(0)
    vectors = []
    while len(vectors) < 40:
        reference = _boxes(rng, rng.randint(1, 6))
        predicted = [_shaken(rng, box) for box in reference if rng.random() < 0.8]
        predicted += [_shaken(rng, rng.choice(reference)) for _ in range(rng.randint(0, 2))]
        predicted += _boxes(rng, rng.randint(0, 3))
        rng.shuffle(predicted)
        if not predicted:
            continue
        faster = _precisions(faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster, predicted, reference)
        plain = _precisions(COCO, COCOeval, predicted, reference)
        if not np.allclose(faster, plain, atol=1e-9):
            raise ValueError("the two evaluations disagree")
        vectors.append({"predicted": predicted, "reference": reference, "precisions": [round(ap, 9) for ap in plain]})
    path = Path(__file__).with_name("average_precision.json")
    lines = ",\n".join(json.dumps(vector) for vector in vectors)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
