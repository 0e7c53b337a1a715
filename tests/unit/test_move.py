"""Moves: no file is overwritten, and none is lost."""

import os
from pathlib import Path

import pytest

from orchestrator_core.system import move


def content(directory):
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


def test_a_move_never_overwrites_and_numbers_before_the_suffix(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    places = []
    for text in (b"1", b"2", b"3"):
        (tmp_path / "a_stream.jsonl").write_bytes(text)
        place = move.move_no_clobber(tmp_path / "a_stream.jsonl", archive / "a_stream.jsonl")
        places.append(Path(place))
    assert ["a_stream.jsonl", "a_stream.1.jsonl", "a_stream.2.jsonl"] == [p.name for p in places]
    assert [b"1", b"2", b"3"] == [place.read_bytes() for place in places]
    assert {"archive"} == {entry.name for entry in tmp_path.iterdir()}


def test_a_second_move_finishes_a_killed_one_under_the_same_name(tmp_path):
    """Both names lead to one file. The second move keeps the new name."""
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    assert str(tmp_path / "b") == move.move_no_clobber(tmp_path / "a", tmp_path / "b")
    assert {"b": b"x"} == content(tmp_path)


def test_the_new_names_are_durable_before_the_old_ones_go(tmp_path, monkeypatch):
    archive = tmp_path / "archive"
    archive.mkdir()
    done = []
    for name in ("link", "unlink", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, _n=name, _r=real, **k: (done.append(_n), _r(*a, **k))[1]
        )
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    move.move_all_no_clobber([(tmp_path / n, archive / n) for n in "ab"])
    assert ["link", "link", "fsync", "unlink", "unlink", "fsync"] == done


def test_a_move_of_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        move.move_no_clobber(tmp_path / "a", tmp_path / "b")
