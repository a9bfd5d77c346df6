"""Phantoms: a whole made-up data set of chest films with known truth.

Role: what the demo and the tests train on. Input: a count and a seed.
Output: a folder with images/, prompts.parquet (truth), conversations.parquet (noisy annotator), manifest.json.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from prompts.anatomy import SIDES, reposition, sample_anatomy
from prompts.annotator import annotator_corpus, careless_report, loosen
from prompts.atomic import new_folder
from prompts.films import SIZE, Film, draw_film
from prompts.findings import Finding, observations, sample_findings
from prompts.reports import (
    ANATOMY_NOUNS,
    REPORT_QUESTIONS,
    finding_noun,
    grounding_answer,
    grounding_question,
    report_sentences,
    truth_corpus,
)
from prompts.splits import split_patients
from prompts.store import CONVERSATIONS_FILE, PROMPTS_FILE, write_conversations, write_prompts
from schemas.errors import DataError
from schemas.prompt import Conversation, ImageRef, Prompt, Reference, Split, Task, Turn

GENERATOR_VERSION = 1
"""Raised whenever the same count and seed give other films or texts."""

DATASET = "phantom"
_MOST_FILMS = 1_000_000
_FILMS_PER_PATIENT_SHARES = (0.75, 0.20, 0.05)
# Streams of random numbers that must not touch each other.
_PATIENT_STREAM, _FILM_STREAM, _TEXT_STREAM, _ANNOTATOR_STREAM = range(4)


@dataclass(frozen=True)
class _Study:
    """One film of one patient, before it is drawn."""

    index: int
    patient_index: int
    split: Split
    seed: int

    @property
    def patient_id(self) -> str:
        return _patient_id(self.patient_index)

    @property
    def study_id(self) -> str:
        return f"{DATASET}-study-{self.index:06d}"

    @property
    def image(self) -> ImageRef:
        return ImageRef(path=f"images/{self.index:06d}.png", width=SIZE, height=SIZE)

    def rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, self.index])


def write_phantoms(out: Path, count: int, seed: int) -> None:
    """Make ``count`` films of somewhat fewer patients, with their prompts and SFT conversations.

    The same count and seed give the same folder. A film does not depend on the count, its split does.

    Raises:
        DataError: ``out`` is there already, can't be written to, or ``count`` or ``seed`` is out of range.
    """
    if not 1 <= count <= _MOST_FILMS:
        raise DataError("count", f"must be 1 to {_MOST_FILMS:,} films", count, "give another count")
    if seed < 0:
        raise DataError("seed", "must be 0 or more", seed, "give another seed")
    with new_folder(out) as folder:
        (folder / "images").mkdir()
        prompts: list[Prompt] = []
        conversations: list[Conversation] = []
        for study in _studies(count, seed):
            film, findings = _draw(study)
            (folder / str(study.image.path)).write_bytes(_png(film))
            new_prompts, answers = _ask(study, film, findings)
            prompts.extend(new_prompts)
            if study.split == "train":
                conversations.extend(map(_conversation, new_prompts, answers))
        write_prompts(folder / PROMPTS_FILE, prompts)
        write_conversations(folder / CONVERSATIONS_FILE, conversations)
        manifest = {"generator_version": GENERATOR_VERSION, "count": count, "seed": seed}
        (folder / "manifest.json").write_text(json.dumps(manifest) + "\n", encoding="utf-8")


def corpus() -> Iterator[str]:
    """Every sentence and question pattern of the phantoms, for training a tokenizer."""
    yield from truth_corpus()
    yield from annotator_corpus()


def _png(film: Film) -> bytes:
    # Grain has no repeats to look for: Huffman alone is faster and smaller than a search.
    buffer = io.BytesIO()
    Image.fromarray(film.pixels).save(buffer, format="PNG", compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
    return buffer.getvalue()


def _patient_id(index: int) -> str:
    return f"{DATASET}-patient-{index:06d}"


def _studies(count: int, seed: int) -> list[_Study]:
    rng = np.random.default_rng([seed, _PATIENT_STREAM])
    films_of_patient = 1 + rng.choice(len(_FILMS_PER_PATIENT_SHARES), size=count, p=_FILMS_PER_PATIENT_SHARES)
    patients = np.repeat(np.arange(count), films_of_patient)[:count].tolist()
    splits = split_patients([_patient_id(patient) for patient in dict.fromkeys(patients)], seed)
    return [_Study(index, patient, splits[_patient_id(patient)], seed) for index, patient in enumerate(patients)]


def _draw(study: _Study) -> tuple[Film, tuple[Finding, ...]]:
    patient_rng = np.random.default_rng([study.seed, _PATIENT_STREAM, study.patient_index])
    film_rng = study.rng(_FILM_STREAM)
    anatomy = reposition(sample_anatomy(patient_rng), film_rng)
    findings = sample_findings(film_rng)
    return draw_film(anatomy, findings, film_rng), findings


def _ask(study: _Study, film: Film, findings: tuple[Finding, ...]) -> tuple[list[Prompt], list[str]]:
    """The prompts about one film with the truth, and what the annotator answers to each."""
    rng, annotator_rng = study.rng(_TEXT_STREAM), study.rng(_ANNOTATOR_STREAM)
    sentences = report_sentences(findings, rng)
    question = REPORT_QUESTIONS[int(rng.integers(len(REPORT_QUESTIONS)))]
    reference = Reference(report=" ".join(sentences), labels=observations(findings))
    prompts = [_prompt(study, "report", "report", question, reference)]
    answers = [careless_report(sentences, annotator_rng)]

    noun = ANATOMY_NOUNS[int(rng.integers(len(ANATOMY_NOUNS)))]
    parts = [f"{side} lung" for side in SIDES] if noun == "lungs" else [noun]
    wanted = [(noun, [film.structures[part] for part in parts])]
    for kind, same_kind in groupby(zip(findings, film.finding_boxes, strict=True), key=lambda pair: pair[0].kind):
        found = list(same_kind)
        wanted.append((finding_noun(kind, [f.side for f, _ in found]), [box for _, box in found]))
    for noun, boxes in wanted:
        question = grounding_question(noun, len(boxes), rng)
        name = f"grounding-{noun.replace(' ', '-')}"
        prompts.append(_prompt(study, "grounding", name, question, Reference(boxes=tuple(boxes))))
        answers.append(grounding_answer(noun, [loosen(box, annotator_rng) for box in boxes]))
    return prompts, answers


def _prompt(study: _Study, task: Task, name: str, question: str, reference: Reference) -> Prompt:
    return Prompt(
        prompt_id=f"{DATASET}-{study.seed}-{study.index:06d}-{name}",
        task=task,
        question=question,
        images=(study.image,),
        box_format="radvlm" if task == "grounding" else None,
        reference=reference,
        dataset=DATASET,
        patient_id=study.patient_id,
        study_id=study.study_id,
        split=study.split,
    )


def _conversation(prompt: Prompt, answer: str) -> Conversation:
    return Conversation(
        conversation_id=prompt.prompt_id,
        images=prompt.images,
        turns=(Turn(role="user", text=prompt.question), Turn(role="assistant", text=answer, is_answer=True)),
        dataset=prompt.dataset,
        patient_id=prompt.patient_id,
        split=prompt.split,
    )
