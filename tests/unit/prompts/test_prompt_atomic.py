from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from prompts.atomic import new_file, new_folder
from schemas.errors import DataError


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "a").write_text("a")
        assert not out.exists()
    assert (out / "a").read_text() == "a"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_folder_or_file_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    def fail_in(scope: AbstractContextManager[Path], name: str) -> None:
        with scope as path:
            (path / name).write_text("half")
            raise failure

    with pytest.raises(failure):
        fail_in(new_folder(tmp_path / "out"), "a")
    with pytest.raises(failure):
        fail_in(new_file(tmp_path / "file"), "")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_be_filled_and_a_full_one_not(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out"):
        pass
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    with pytest.raises(DataError, match="must not exist"), new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_a_place_that_cannot_be_written_to_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="place to write"), new_folder(tmp_path / "file" / "out"):
        pass
    with pytest.raises(DataError, match="place to write"), new_file(tmp_path / "file" / "out"):
        pass


def test_a_file_replaces_the_old_one_at_once(tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.write_text("old")
    with new_file(out) as file:
        file.write_text("new")
        assert out.read_text() == "old"
    assert out.read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]
