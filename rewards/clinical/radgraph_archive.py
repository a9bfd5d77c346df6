"""radgraph_archive: what the published archive of RadGraph-XL holds.

Role: finds and reads radgraph-xl.tar.gz, packed or unpacked, in memory: nothing is extracted, so nothing can be written
outside a folder and no copy grows stale. Also finds the encoder's tokenizer and config, which the archive lacks.
Input: ModelSettings "radgraph". Output: an Archive (layout, labels, the bytes of weights.th); the encoder's folder.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rewards.clinical.weights import find_files
from rewards.resources import ModelSettings, NotReadyError

MODEL = "radgraph"
REPO = "StanfordAIMI/RRG_scorers"
PACKED = "radgraph-xl.tar.gz"
# What the published config.json names; said where the archive itself is missing.
_PUBLISHED_ENCODER = "microsoft/BiomedVLP-CXR-BERT-general"
ENTITY_LABELS = "radgraph-xl__ner_labels"
RELATION_LABELS = "radgraph-xl__relation_labels"
_CONFIG, _WEIGHTS = "config.json", "weights.th"
_VOCABULARY = {name: f"vocabulary/{name}.txt" for name in (ENTITY_LABELS, RELATION_LABELS)}
_MEMBERS = (_CONFIG, _WEIGHTS, *_VOCABULARY.values())
_AGAIN = f"take {PACKED} from {REPO} again"


@dataclass(frozen=True)
class Layout:
    """The network's sizes, and what it does with a text (config.json).

    Attributes:
        encoder: the Hugging Face repository of the encoder's config and tokenizer.
        max_length: wordpieces of one of the encoder's segments, its special tokens included.
        max_span_width: words of the longest span that is considered.
        width_embeddings: rows of the table of span widths.
        units: outputs of each hidden layer of every scorer.
        spans_per_word: how many of a text's spans may take part in relations, per word.
    """

    encoder: str
    max_length: int
    max_span_width: int
    width_embeddings: int
    feature_size: int
    units: tuple[int, ...]
    spans_per_word: float


@dataclass(frozen=True)
class Archive:
    """The published files, read. Label 0 of the entities is the null label; relations have none."""

    layout: Layout
    entity_labels: tuple[str, ...]
    relation_labels: tuple[str, ...]
    weights: bytes


def read_files(settings: ModelSettings) -> tuple[Archive, Path]:
    """The archive, and the folder with its encoder's config and tokenizer.

    Raises:
        NotReadyError: something is missing or is not RadGraph-XL; all that is missing is named at once.
    """
    try:
        archive = read_archive(settings)
    except NotReadyError as error:
        try:
            encoder_folder(settings, _PUBLISHED_ENCODER)
        except NotReadyError as second:
            raise NotReadyError(f"{error.remedy}; also {second.remedy}") from error
        raise
    return archive, encoder_folder(settings, archive.layout.encoder)


def read_archive(settings: ModelSettings) -> Archive:
    """Reads the archive, or its unpacked folder if the model's folder holds one.

    Raises:
        NotReadyError: something is missing or is not RadGraph-XL.
    """
    folder = settings.folder and settings.folder.expanduser()
    if folder and any((folder / name).is_file() for name in (_WEIGHTS, _CONFIG)):
        paths = find_files(MODEL, settings, REPO, _MEMBERS)
        files = {name: path.read_bytes() for name, path in paths.items()}
    else:
        files = _unpack(find_files(MODEL, settings, REPO, [PACKED])[PACKED])
    entity_labels, relation_labels = (_labels(files[path]) for path in _VOCABULARY.values())
    if not entity_labels or entity_labels[0] != "":
        raise NotReadyError(f"{MODEL}: {_VOCABULARY[ENTITY_LABELS]} does not begin with the null label; {_AGAIN}")
    return Archive(_layout(files[_CONFIG]), entity_labels, relation_labels, files[_WEIGHTS])


def _unpack(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = str(PurePosixPath(member.name))  # "./config.json" is config.json
                content = archive.extractfile(member) if name in _MEMBERS and member.isfile() else None
                if content is not None:
                    files[name] = content.read()
    # A file that was cut off while it was downloaded.
    except (tarfile.TarError, EOFError, OSError) as error:
        raise NotReadyError(f"{MODEL}: {path} can't be read as a tar.gz; {_AGAIN}") from error
    missing = [name for name in _MEMBERS if name not in files]
    if missing:
        raise NotReadyError(f"{MODEL}: no {', '.join(missing)} in {path}; {_AGAIN}")
    return files


def _labels(content: bytes) -> tuple[str, ...]:
    # One a line, the line's number is its index; the last line may end without a line feed.
    return tuple(content.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n"))


def _layout(content: bytes) -> Layout:
    try:
        config = json.loads(content)
        reader, model = config["dataset_reader"], config["model"]
        bert = reader["token_indexers"]["bert"]
        feedforward = model["feedforward_params"]
        layout = Layout(
            encoder=str(bert["model_name"]),
            max_length=int(bert["max_length"]),
            max_span_width=int(reader["max_span_width"]),
            width_embeddings=int(model["max_span_width"]),
            feature_size=int(model["feature_size"]),
            units=_units(feedforward["hidden_dims"], int(feedforward["num_layers"])),
            spans_per_word=float(model["modules"]["relation"]["spans_per_word"]),
        )
        propagates = int(model["modules"]["coref"]["coref_prop"]) > 0
    except (ValueError, KeyError, TypeError) as error:
        raise NotReadyError(
            f"{MODEL}: {_CONFIG} is not RadGraph-XL's ({type(error).__name__}: {error}); {_AGAIN}"
        ) from error
    if propagates or layout.max_span_width > layout.width_embeddings:
        raise NotReadyError(f"{MODEL}: {_CONFIG} asks for coreference or wider spans than were trained; {_AGAIN}")
    return layout


def _units(hidden: Any, layers: int) -> tuple[int, ...]:
    return tuple(int(units) for units in hidden) if isinstance(hidden, list) else (int(hidden),) * layers


def encoder_folder(settings: ModelSettings, encoder: str) -> Path:
    """Where the encoder's config and tokenizer are: a folder of its own name in the model's, or the Hugging Face cache.

    Raises:
        NotReadyError: there is no config or no tokenizer.
    """
    if settings.folder is not None:
        # Not in the model's folder itself: an unpacked archive has a config.json of its own there.
        settings = settings.model_copy(update={"folder": settings.folder / encoder.rpartition("/")[2]})
    folder = find_files(MODEL, settings, encoder, ["config.json"])["config.json"].parent
    if not (folder / "tokenizer.json").is_file():
        find_files(MODEL, settings, encoder, ["config.json", "vocab.txt"])
    return folder
