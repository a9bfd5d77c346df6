"""How ratescore.json was made: the original package's scores of PAIRS, on the checkpoints of ratescore_checkpoint.py.

Role: the independent computation that rewards/clinical/ratescore.py is compared with.
Input: none. Output: ratescore.json beside this file. Run in an environment of its own:

    pip install "RaTEScore==0.6.0" "transformers==4.45.2" "medspacy==1.3.1" "numpy<2" "pandas<3" torch
    python tests/unit/rewards/vectors/make_ratescore_vectors.py
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from ratescore_checkpoint import save_embedding, save_ner  # noqa: E402

# candidate, reference
PAIRS = (
    ("The lungs are clear. No pleural effusion.", "Small left pleural effusion. The heart is normal."),
    ("Small left pleural effusion.", "Small left pleural effusion."),
    ("There is mild edema in the right lower lobe. Heart size is normal.", "Large opacity in the left lung."),
    ("No pneumothorax.\nNo effusion.\nThe heart size is normal", "No pneumothorax and no effusion. Lungs are clear."),
    ("large effusion. no opacity. mild edema", "Cardiomegaly with 1.5 cm nodule, stable, see text (a/b)."),
    ("Effusion", "Opacity of the lung with effusion and edema and no pneumothorax in the left lower lobe of the lung."),
    ("The heart is normal. Clear lungs are there", "The lobe of the left lung is clear. Right lung opacity."),
    ("Größe 5 µm. Ünlike the ﬁnding. Ｎormal lungs.", "Lungs  are   normal"),
    ("effusion " * 40, "opacity and " * 25),
)
SEEDS = (0, 4, 6, 7)  # of the two checkpoints: together they use all labels, and entities that end with the sentence


def main() -> None:
    from RaTEScore import RaTEScore
    from RaTEScore.score import run_ner
    from RaTEScore.utils import sentence_split

    candidates, references = [pair[0] for pair in PAIRS], [pair[1] for pair in PAIRS]
    runs = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as scratch:
            ner, embedding = Path(scratch) / "ner", Path(scratch) / "embedding"
            save_ner(ner, seed)
            save_embedding(embedding, seed)
            for matrix in ("long", "short"):
                scorer = RaTEScore(str(ner), str(embedding), batch_size=1, use_gpu=False, affinity_matrix=matrix)
                # One at a time: the package drops a text without a sentence from its list, and scores what follows
                # against the wrong references.
                scores = [float(scorer.compute_score([candidate], [reference])[0]) for candidate, reference in PAIRS]
                runs.append({"seed": seed, "matrix": matrix, "scores": scores})
            arguments = (scorer.idx2label, scorer.tokenizer, scorer.model, scorer.device, 1)
            runs[-1]["entities"] = [
                run_ner([text], *arguments)[0] if sentence_split([text])[0] else [] for text in candidates + references
            ]
    sentences = [sentence_split([text])[0] for text in candidates + references]
    vectors = {"pairs": PAIRS, "sentences": sentences, "runs": runs}
    (HERE / "ratescore.json").write_text(json.dumps(vectors, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
