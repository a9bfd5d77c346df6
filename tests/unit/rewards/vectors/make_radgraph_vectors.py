"""How radgraph.json was made: the original package's graphs of REPORTS, on the checkpoint of radgraph_checkpoint.py.

Role: the independent computation that rewards/clinical/radgraph.py is compared with.
Input: none. Output: radgraph.json beside this file. Run in an environment of its own, with the last major version of
transformers that the package works with:

    pip install "radgraph==0.1.18" "transformers==4.45.2" "numpy<3" torch
    python tests/unit/rewards/vectors/make_radgraph_vectors.py
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from radgraph_checkpoint import ENTITY_LABELS, RELATION_LABELS, write_encoder, write_unpacked  # noqa: E402

REPORTS = (
    "The lungs are clear. No acute pleural effusion or pneumothorax. Heart size is normal.",
    "Small left pleural effusion with mild edema (stable). Opacity in the right lower lobe is 1.5 cm, 50%.",
    "FINDINGS:\nET tube 2.3 cm above the carina.\\nThere is 'mild.' cardiomegaly; 30%, or (40%), of the lobe"
    "\t\tand/or/.",
    "Effusion",
    'Effusions? opacities/consolidations -- "atelectasis". \\"Normal\\" hospitalization!!! ???',
    "Na\u00efve \u00e9dema \u80ba\u708e of 5\u00b5m \U0001f600 \u2122 lungs\u00a0clear \x07 heart\u200b size "
    "\\u2122 \\f normal",
    "no acute cardiopulmonary process " * 3,
    # Longer than the encoder's 512 pieces: two segments, cut inside a word.
    "Bronchopulmonary hyperinflation, tracheobronchomalacia; hepatosplenomegaly with hemidiaphragmatic eventration. "
    * 8,
)


def compact(annotation: dict[str, Any]) -> dict[str, Any]:
    """An annotation of the package: its words, [start, end, label] an entity, [source, target, type] a relation."""
    entities = list(annotation["entities"].values())
    assert all(e["tokens"] == " ".join(annotation["text"].split()[e["start_ix"] : e["end_ix"] + 1]) for e in entities)
    return {
        "text": annotation["text"],
        "entities": [[e["start_ix"], e["end_ix"], ENTITY_LABELS.index(e["label"])] for e in entities],
        "relations": [
            [source, int(target) - 1, RELATION_LABELS.index(kind)]
            for source, entity in enumerate(entities)
            for kind, target in entity["relations"]
        ],
    }


def main() -> None:
    from radgraph import RadGraph
    from radgraph.rewards import compute_reward

    with tempfile.TemporaryDirectory() as scratch:
        encoder = write_encoder(Path(scratch) / "encoder")
        write_unpacked(Path(scratch) / "radgraph-xl", str(encoder))
        annotations = RadGraph(model_type="radgraph-xl", model_cache_dir=scratch, cuda=-1)(list(REPORTS))
    graphs = [annotations[str(i)] for i in range(len(REPORTS))]
    pairs = [(i, j) for i in range(len(REPORTS)) for j in range(len(REPORTS))]
    rewards = [[i, j, *compute_reward(graphs[i], graphs[j], "all")] for i, j in pairs]
    content = {"graphs": [compact(graph) for graph in graphs], "rewards": rewards}
    (HERE / "radgraph.json").write_text(json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n")
    for graph in content["graphs"]:
        sys.stdout.write(f"{ {name: len(value) for name, value in graph.items()} }\n")


if __name__ == "__main__":
    main()
