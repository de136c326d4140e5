"""Going back to an earlier checkpoint loses nothing, whenever it is stopped; pruning keeps what is gone on with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from detrex_ext.checkpoint import RunFolder, rewinding
from detrex_ext.checkpoint.rewinding import prune, rewind


def finished(path: Path, periodic=(1, 3, 5, 7, 9, 11), best: int | None = 9, lines: int = 12) -> RunFolder:
    """A folder as a training leaves it; each file holds its iteration."""
    for name, iteration in [*((f"{i:07d}", i) for i in periodic), ("final", periodic[-1]), ("best", best)]:
        if iteration is not None:
            torch.save({"model": {}, "iteration": iteration}, path / f"model_{name}.pth")
    (path / "metrics.json").write_text("".join(f'{{"iteration": {i}}}\n' for i in range(lines)))
    (path / "last_checkpoint").write_text("model_final.pth")
    return RunFolder(path)


def names(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def contents(path: Path) -> list[tuple[str, bytes]]:
    """Of every checkpoint, wherever it lies."""
    return sorted((p.name, p.read_bytes()) for p in path.rglob("*.pth"))


class TestGoingBack:
    def test_later_checkpoints_and_their_metrics_are_set_aside(self, tmp_path, caplog):
        folder = finished(tmp_path)
        folder.tag("model_0000003.pth")
        before = contents(tmp_path)
        rewind(folder, folder.periodic(3), 3)
        aside = [f"set_aside/model_{i:07d}.pth" for i in (5, 7, 9, 11)]
        aside += ["set_aside/model_best.pth", "set_aside/model_final.pth", "set_aside/metrics.json"]
        kept = ["last_checkpoint", "metrics.json", "model_0000001.pth", "model_0000003.pth"]
        assert names(tmp_path) == sorted(aside + kept)
        assert contents(tmp_path) == before
        assert [line["iteration"] for line in folder.read_metrics()] == [0, 1, 2, 3]
        assert len((tmp_path / "set_aside" / "metrics.json").read_text().splitlines()) == 12
        assert caplog.text.count("resume:") == 1
        assert f"goes on after 4 iterations; what was later is in {tmp_path}/set_aside: model_best.pth" in caplog.text
        assert folder.newest().data["iteration"] == 3

    def test_going_on_from_the_last_moves_nothing(self, tmp_path):
        folder = finished(tmp_path)
        rewind(folder, folder.final, 11)
        assert not (tmp_path / "set_aside").exists() and len(names(tmp_path)) == 10

    def test_the_best_of_a_killed_training_stays(self, tmp_path):
        """It was evaluated after the last checkpoint, and comes again."""
        folder = finished(tmp_path, periodic=(1, 3), best=5)
        folder.final.unlink()
        rewind(folder, folder.periodic(3), 3)
        assert folder.best.is_file() and not (tmp_path / "set_aside").exists()

    def test_a_second_time_has_a_folder_of_its_own(self, tmp_path):
        for _ in range(2):
            folder = finished(tmp_path)
            rewind(folder, folder.periodic(3), 3)
        assert names(tmp_path / "set_aside") == names(tmp_path / "set_aside_2")
        torch.save({"iteration": 13}, tmp_path / "model_0000013.pth")  # no name of before, but another history
        rewind(folder, folder.periodic(3), 3)
        assert names(tmp_path / "set_aside_3") == ["metrics.json", "model_0000013.pth"]

    @pytest.mark.parametrize("kind", ["file", "link", "dead link", "pipe"])
    def test_what_has_its_name_stays(self, tmp_path, kind):
        run, other = tmp_path / "run", tmp_path / "other"
        run.mkdir(), other.mkdir()
        make = {
            "file": lambda path: path.write_text("mine"),
            "link": lambda path: path.symlink_to(other),
            "dead link": lambda path: path.symlink_to("/nowhere/at/all"),
            "pipe": os.mkfifo,
        }
        make[kind](run / "set_aside")
        folder = finished(run)
        rewind(folder, folder.periodic(3), 3)
        assert (run / "set_aside_2" / "model_final.pth").is_file() and not list(other.iterdir())

    def test_an_unreadable_newest_does_not_stand_in_the_way(self, tmp_path):
        folder = finished(tmp_path, best=1)
        folder.final.write_bytes(b"half")
        folder.periodic(11).write_bytes(b"half")
        saved = folder.newest()
        assert saved.data["iteration"] == 9
        rewind(folder, Path(saved.path), 9)
        assert names(tmp_path / "set_aside") == ["metrics.json", "model_0000011.pth", "model_final.pth"]
        assert folder.tagged() == folder.periodic(9)

    def test_without_a_checkpoint_the_old_metrics_are_kept(self, tmp_path, caplog):
        (tmp_path / "metrics.json").write_text('{"iteration": 19}\n')
        folder = RunFolder(tmp_path)
        rewind(folder, None, -1)
        assert folder.metrics.read_text() == ""
        assert json.loads((tmp_path / "set_aside" / "metrics.json").read_text()) == {"iteration": 19}
        assert "training begins anew" in caplog.text
        rewind(folder, None, -1)
        assert not (tmp_path / "set_aside_2").exists()

    def test_killed_at_any_moment_it_is_done_by_the_next(self, tmp_path, monkeypatch):
        """Each call that changes the disk is the last one once."""

        class Killed(BaseException):
            pass

        calls, last = 0, 0

        def counted(inner):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == last:
                    raise Killed
                return inner(*args, **kwargs)

            return call

        for name in ("replace", "mkdir", "fsync"):
            monkeypatch.setattr(os, name, counted(getattr(os, name)))
        done = 0
        for last in range(1, 40):
            calls, path = 1000, tmp_path / str(last)
            path.mkdir()
            folder = finished(path)
            folder.tag("model_0000003.pth")
            before, calls = contents(path), 0
            try:
                rewind(folder, folder.periodic(3), 3)
                done += 1
            except Killed:
                saved = RunFolder(path).newest()
                assert saved.data["iteration"] == 3, last
                rewind(folder, Path(saved.path), 3)
            assert contents(path) == before, last
            assert [p.name for p in folder.files()] == ["model_0000001.pth", "model_0000003.pth"], last
            assert not folder.best.exists() and len(folder.read_metrics()) == 4
            assert len((path / "set_aside" / "metrics.json").read_text().splitlines()) == 12
            assert not (path / "set_aside_2").exists(), last
        assert 0 < done < 30


class TestPruning:
    def test_the_oldest_go(self, tmp_path):
        folder = finished(tmp_path)
        prune(folder, 2, folder.periodic(11))
        assert [p.name for p in folder.periodic_files()] == ["model_0000009.pth", "model_0000011.pth"]

    @pytest.mark.parametrize("keep, left", [(0, 6), (1, 4), (2, 5), (3, 5), (9, 6)])
    def test_what_is_tagged_and_what_is_later_stays(self, tmp_path, keep, left):
        """Files of later iterations are no reason to delete the one just written."""
        folder = finished(tmp_path)
        folder.tag("model_0000003.pth")
        prune(folder, keep, folder.periodic(7))
        kept = folder.periodic_files()
        assert {folder.periodic(i) for i in (3, 7, 9, 11)} <= set(kept) and len(kept) == left

    def test_a_file_that_is_gone_is_no_error(self, tmp_path, monkeypatch):
        folder = finished(tmp_path)
        folder.periodic(1).unlink()
        files = [folder.periodic(i) for i in (1, 3, 5, 7, 9, 11)]
        monkeypatch.setattr(rewinding.RunFolder, "periodic_files", lambda self: files)
        prune(folder, 1, folder.periodic(11))
        assert not folder.periodic(9).exists() and folder.periodic(11).exists()
