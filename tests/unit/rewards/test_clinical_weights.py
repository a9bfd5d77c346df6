"""Where clinical weights are looked for, what is said when they are missing, how texts are batched."""

import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from clinical_checkpoints import save_chexbert, save_distilroberta
from hypothesis import given
from hypothesis import strategies as st

from rewards.clinical import weights
from rewards.clinical.batches import by_length, padded
from rewards.clinical.bertscore import load_bertscore
from rewards.clinical.chexbert import load_chexbert
from rewards.clinical.tokens import load_tokenizer, tokenise
from rewards.clinical.weights import device_of, every, find_files, in_use, loaded
from rewards.resources import ModelSettings, NotReadyError, Resources

Loader = Callable[[Resources], object]


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_LOADED", {})


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def publish(cache: Path, repo_id: str, *files: Path) -> None:
    """Files in the layout of the Hugging Face cache: a ref that names a commit, a snapshot of links to blobs."""
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c0ffee")
    (repo / "snapshots" / "c0ffee").mkdir(parents=True)
    (repo / "blobs").mkdir()
    for file in files:
        blob = repo / "blobs" / file.name
        blob.write_bytes(file.read_bytes())
        (repo / "snapshots" / "c0ffee" / file.name).symlink_to(blob)


def at(name: str, folder: Path) -> Resources:
    return Resources(models={name: ModelSettings(folder=folder, device="cpu")})


# files


def test_a_missing_file_is_named_with_the_cache_and_the_command_that_gets_it(hub_cache: Path, no_network: None) -> None:
    with pytest.raises(NotReadyError) as error:
        find_files("chexbert", ModelSettings(), "StanfordAIMI/RRG_scorers", ["chexbert.pth"])
    remedy = error.value.remedy
    assert "no chexbert.pth" in remedy
    assert str(hub_cache) in remedy
    assert "`hf download StanfordAIMI/RRG_scorers chexbert.pth`" in remedy
    assert "reward.models.chexbert.folder" in remedy
    assert "\n" not in remedy


def test_a_file_missing_in_the_set_folder_is_downloaded_to_that_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotReadyError) as error:
        find_files("m", ModelSettings(folder=tmp_path), "someone/model", ["config.json", "a.bin", "b.bin"])
    assert "no a.bin, b.bin in the folder" in error.value.remedy
    assert f"`hf download someone/model a.bin b.bin --local-dir {tmp_path}`" in error.value.remedy


def test_all_that_a_model_lacks_is_said_at_once(hub_cache: Path, no_network: None) -> None:
    with pytest.raises(NotReadyError) as error:
        load_chexbert(Resources())
    assert "hf download StanfordAIMI/RRG_scorers chexbert.pth" in error.value.remedy
    assert "hf download google-bert/bert-base-uncased config.json tokenizer.json" in error.value.remedy


def test_what_several_steps_lack_is_said_once_each() -> None:
    def lacking(remedy: str) -> object:
        raise NotReadyError(remedy)

    with pytest.raises(NotReadyError, match=r"^one; also two$"):
        every(lambda: lacking("one"), lambda: 3, lambda: lacking("two"), lambda: lacking("one"))
    assert every(lambda: 1, lambda: 2) == [1, 2]


def test_models_are_loaded_from_the_hugging_face_cache_without_the_network(
    tmp_path: Path, hub_cache: Path, no_network: None
) -> None:
    chexbert, roberta = tmp_path / "chexbert", tmp_path / "roberta"
    save_chexbert(chexbert)
    save_distilroberta(roberta)
    publish(hub_cache, "StanfordAIMI/RRG_scorers", chexbert / "chexbert.pth")
    publish(hub_cache, "google-bert/bert-base-uncased", chexbert / "config.json", chexbert / "tokenizer.json")
    names = ("config.json", "model.safetensors", "tokenizer.json")
    publish(hub_cache, "distilbert/distilroberta-base", *(roberta / name for name in names))
    cpu = ModelSettings(device="cpu")
    resources = Resources(models={"chexbert": cpu, "bertscore": cpu})
    assert len(load_chexbert(resources).findings(["No effusion."])) == 1
    assert len(load_bertscore(resources).embed(["No effusion."])) == 1


@pytest.mark.parametrize(
    ("load", "name", "save", "file"),
    [
        (load_chexbert, "chexbert", save_chexbert, "chexbert.pth"),
        (load_bertscore, "bertscore", save_distilroberta, "model.safetensors"),
    ],
)
def test_a_broken_or_foreign_file_is_not_ready_and_named(
    load: Loader, name: str, save: Callable[[Path], None], file: str, tmp_path: Path
) -> None:
    save(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:3000])
    with pytest.raises(NotReadyError, match=file):
        load(at(name, tmp_path))


# devices and loaded models


def test_a_device_that_is_not_there_is_not_ready_with_the_setting_to_change() -> None:
    with pytest.raises(NotReadyError, match=r"reward\.models\.chexbert\.device to auto or cpu"):
        device_of("chexbert", ModelSettings(device="warp:3"))
    assert device_of("chexbert", ModelSettings(device="cpu")) == "cpu"
    assert device_of("chexbert", ModelSettings()) in ("cpu", "cuda")


def test_scorers_of_one_process_share_a_model() -> None:
    asked: list[ModelSettings] = []

    def loader(settings: ModelSettings) -> list[int]:
        asked.append(settings)
        return [len(asked)]

    first = loaded("m", Resources(), loader)
    assert loaded("m", Resources(), loader) is first
    assert in_use("m", list) is first
    assert len(asked) == 1
    other = loaded("m", Resources(models={"m": ModelSettings(batch_size=2)}), loader)
    assert other == [2]
    assert in_use("m", list) is other


def test_a_model_that_failed_to_load_is_tried_again() -> None:
    def missing(_: ModelSettings) -> object:
        raise NotReadyError("not yet")

    with pytest.raises(NotReadyError):
        loaded("m", Resources(), missing)
    with pytest.raises(LookupError):
        in_use("m", object)
    assert loaded("m", Resources(), lambda _: "here") == "here"


# batches


@given(st.lists(st.lists(st.integers(), max_size=9), max_size=30), st.integers(1, 7))
def test_results_come_in_the_order_of_the_texts(sequences: list[list[int]], batch_size: int) -> None:
    sizes: list[int] = []

    def forward(batch: list[list[int]]) -> list[list[int]]:
        sizes.append(len(batch))
        return [[*sequence, 0] for sequence in batch]

    assert by_length(sequences, batch_size, forward) == [[*sequence, 0] for sequence in sequences]
    assert sum(sizes) == len(sequences)
    assert max(sizes, default=0) <= batch_size


@given(st.lists(st.integers(0, 60), min_size=1, max_size=30), st.integers(1, 7))
def test_a_batch_never_holds_a_text_longer_than_the_batch_before(lengths: list[int], batch_size: int) -> None:
    seen: list[list[int]] = []

    def forward(batch: list[range]) -> list[None]:
        seen.append([len(text) for text in batch])
        return [None] * len(batch)

    by_length([range(length) for length in lengths], batch_size, forward)
    assert [length for batch in seen for length in batch] == sorted(lengths, reverse=True)


@given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 7), st.integers(1, 100))
def test_a_batch_is_bounded_by_its_total_too_and_what_is_beyond_is_alone(
    lengths: list[int], batch_size: int, largest: int
) -> None:
    seen: list[list[int]] = []

    def forward(batch: list[range]) -> list[range]:
        seen.append([len(text) for text in batch])
        return batch

    texts = [range(length) for length in lengths]
    assert by_length(texts, batch_size, forward, largest=largest) == texts
    assert all(len(batch) <= batch_size and (sum(batch) <= largest or len(batch) == 1) for batch in seen)
    for batch, following in pairwise(seen):  # no batch ends before it is full
        assert len(batch) == batch_size or sum(batch) + following[0] > largest


def test_another_length_than_len_can_be_bounded() -> None:
    seen: list[list[int]] = []
    by_length([[3], [1, 4], [9]], 8, lambda batch: seen.append(list(map(sum, batch))) or batch, size=sum, largest=10)
    assert seen == [[9], [5, 3]]


def test_padding_ends_at_the_batchs_longest_text() -> None:
    ids, mask = padded([[5, 6, 7], [8]], pad_id=1)
    np.testing.assert_array_equal(ids, [[5, 6, 7], [8, 1, 1]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 0, 0]])


# tokens


def test_tokens_are_those_of_the_published_vocabulary(tmp_path: Path) -> None:
    save_chexbert(tmp_path)
    tokens = tokenise(load_tokenizer(tmp_path / "tokenizer.json"), ["NO\n left  effusions. Nodule", "", "\u200b"], 512)
    assert tokens[0].ids == [2, 5, 7, 9, 10, 12, 1, 3]
    assert [entry.blank for entry in tokens] == [False, True, True]


def test_what_does_not_fit_is_counted_and_the_end_token_stays(tmp_path: Path) -> None:
    save_chexbert(tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")  # it was saved with a truncation of its own, of 8
    fits, cut = tokenise(tokenizer, ["left " * 8, "left " * 9 + "right"], limit=10)
    assert fits == ([2, *[7] * 8, 3], 0)
    assert cut == ([2, *[7] * 8, 3], 2)


def test_a_written_special_token_is_plain_text(tmp_path: Path) -> None:
    save_chexbert(tmp_path)
    (tokens,) = tokenise(load_tokenizer(tmp_path / "tokenizer.json"), ["left [SEP] [PAD]"], 512)
    assert tokens.ids.count(3) == 1
    assert 0 not in tokens.ids


def test_half_a_surrogate_pair_is_survived(tmp_path: Path) -> None:
    save_chexbert(tmp_path)
    (tokens,) = tokenise(load_tokenizer(tmp_path / "tokenizer.json"), ["left \ud83d right"], 512)
    assert {7, 8} <= set(tokens.ids)
