"""The check verb: exit codes, text and JSON."""

from __future__ import annotations

import json

import pytest
from data_sets import coco, write

from detrex_ext.cli.check import main
from detrex_ext.errors import UserError


def test_a_sound_set(tmp_path, capsys):
    path = write(tmp_path, coco())
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "no errors" in out and "class10" in out and str(tmp_path / "images") in out


def test_errors_give_exit_code_1(tmp_path, capsys):
    path = write(tmp_path, coco())
    (tmp_path / "images" / "3.png").write_bytes(b"")
    assert main([str(path), "--images", str(tmp_path / "images")]) == 1
    out = capsys.readouterr().out
    assert "error: 1 x unreadable_file" in out and "3.png" in out


def test_json_output(tmp_path, capsys):
    data = coco()
    data["annotations"][0]["category_id"] = 7
    path = write(tmp_path, data)
    assert main([str(path), "--json", "-"]) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err == ""
    assert document["ok"] is False and document["num_images"] == 4
    assert document["classes"]["class20"]["total"] == 2
    (finding,) = [f for f in document["findings"] if f["severity"] == "error"]
    assert finding["kind"] == "unknown_category" and finding["count"] == 1
    assert main([str(path), str(path), "--json", "-", "--headers-only"]) == 1
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_json_file_beside_the_text(tmp_path, capsys):
    path, file = write(tmp_path, coco()), tmp_path / "report.json"
    for _ in range(2):  # a report of before is written over
        assert main([str(path), "--json", str(file)]) == 0
        assert "no errors" in capsys.readouterr().out
    assert json.loads(file.read_text())["ok"] is True
    with pytest.raises(UserError, match="--json .*none/a.json: expected a file to write; there is no folder"):
        main([str(path), "--json", str(tmp_path / "none" / "a.json")])


def test_the_switch_that_json_was_is_taken_and_no_annotation_file_is_written_over(tmp_path, capsys):
    path = write(tmp_path, coco())
    before = path.read_bytes()
    for arguments, count in (
        ([str(path), "--json"], 1),
        (["--json", str(path)], 1),
        (["--json", str(path), str(path), "--headers-only"], 2),
    ):
        assert main(arguments) == 0
        captured = capsys.readouterr()
        document = json.loads(captured.out)
        assert len(document if count > 1 else [document]) == count
        assert captured.err == "--json without a file is now --json - (standard output)\n"
    assert path.read_bytes() == before
    with pytest.raises(SystemExit):
        main(["--json"])


def test_a_file_that_cannot_be_read_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="annotation file not found"):
        main([str(tmp_path / "none.json")])
