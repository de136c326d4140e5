from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from detrex_ext.cli import dispatch
from detrex_ext.cli.plot import main
from detrex_ext.errors import UserError
from detrex_ext.visualization import beside, draw_boxes, plot_curves, read_metrics
from detrex_ext.visualization.curves import labels
from detrex_ext.visualization.draw import _overlap, _place, class_color

GREY = np.full((400, 800, 3), 128, np.uint8)


def _colored(image, color):
    return (np.asarray(image) == color).all(-1)


def test_box_is_drawn_where_it_is_in_the_color_of_its_class():
    image = draw_boxes(GREY, [[100, 150, 300, 350]], [2], ["a", "b", "c"], [0.876])
    assert image.size == (800, 400)
    hit = _colored(image, class_color(2))
    assert hit[150:351, 100].all() and hit[350, 100:301].all() and hit[150:351, 300].all()
    assert not hit[200:300, 150:250].any() and not hit[:, 400:].any()
    assert (GREY == 128).all()


def test_small_images_are_enlarged_and_boxes_with_them():
    image = draw_boxes(np.zeros((96, 128, 3), np.uint8), [[32, 48, 64, 90]], [0], ["a"])
    assert image.size == (640, 480)
    hit = _colored(image, class_color(0))
    assert hit[240:451, 160].all() and hit[240:451, 320].all()


def test_label_of_a_box_at_the_border_stays_on_the_image_and_labels_do_not_cover_each_other():
    taken = []
    crowd = [[300.0, 200, 460, 260]] * 12
    for box in ([0.0, 0, 30, 30], [0, 0, 30, 30], [0, 0, 30, 30], [780, 390, 799, 399], *crowd):
        x0, y0, x1, y1 = _place(tuple(box), (0, 0, 60, 12), (800, 400), taken)
        assert 0 <= x0 and 0 <= y0 and x1 <= 800 and y1 <= 400
        assert not any(_overlap((x0, y0, x1, y1), other) for other in taken)
        taken.append((x0, y0, x1, y1))


def test_label_tells_the_name_and_the_score():
    with_score, without = (draw_boxes(GREY, [[100, 150, 300, 350]], [0], ["cat"], s) for s in ([0.5], None))
    other = draw_boxes(GREY, [[100, 150, 300, 350]], [0], ["dog"], [0.5])
    wide = [_colored(p, class_color(0))[148].sum() for p in (with_score, without)]
    assert wide[0] > wide[1] > 0
    assert not np.array_equal(np.asarray(with_score), np.asarray(other))


def test_nothing_found_is_the_image_itself():
    assert np.array_equal(np.asarray(draw_boxes(GREY, [], [], ["a"], [])), GREY)


def test_classes_have_their_own_colors():
    assert len({class_color(k) for k in range(80)}) == 80


def test_a_class_can_have_a_color_of_its_own():
    boxes = [[100, 150, 300, 350], [400, 150, 600, 350]]
    image = draw_boxes(GREY, boxes, [0, 1], ["a", "b"], colors={1: (255, 255, 255)})
    white, red = _colored(image, (255, 255, 255)), _colored(image, class_color(0))
    assert white[150:351, 400].all() and red[150:351, 100].all() and not white[150:, :400].any()


def test_a_title_that_is_wider_than_its_image_is_not_cut():
    one, two = (beside([Image.new("RGB", (50, 40))], [title]) for title in ("stage 1", "stage 1 after attention"))
    assert two.width > one.width > 50
    dark = (np.asarray(two)[:30] < 128).all(-1)
    assert dark.any() and not dark[:, -3:].any()


def test_images_stand_beside_each_other():
    left, right = Image.new("RGB", (50, 40), "red"), Image.new("RGB", (70, 60), "blue")
    both = beside([left, right], ["predicted", "ground truth"])
    assert both.width > 120 and both.height > 60
    pixels = np.asarray(both)
    assert (pixels == (255, 0, 0)).all(-1).sum() == 2000 and (pixels == (0, 0, 255)).all(-1).sum() == 4200


def _run(folder, rows):
    folder.mkdir()
    (folder / "metrics.json").write_text("\n".join(json.dumps(r) for r in rows) + '\n{"iteration": 99, "tot')
    return folder


def test_metrics_of_a_resumed_and_killed_run(tmp_path):
    rows = [
        {"iteration": 19, "total_loss": 5.0, "lr": 1e-3},
        {"iteration": 39, "total_loss": 4.0, "lr": 1e-3, "bbox/AP": 10.0},
        {"iteration": 39, "total_loss": 3.5, "lr": 1e-3, "bbox/AP": 11.0},
        {"iteration": 59, "total_loss": float("nan"), "lr": 1e-4},
    ]
    metrics = read_metrics(_run(tmp_path / "run", rows))
    assert metrics["total_loss"] == [(19, 5.0), (39, 3.5)]
    assert metrics["bbox/AP"] == [(39, 11.0)]
    assert metrics["lr"][-1] == (59, 1e-4)


def test_curves_of_two_runs(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    rows = [{"iteration": i, "total_loss": 9.0 / i, "lr": 1e-3, "bbox/AP": i, "bbox/AP50": 2 * i} for i in (1, 2, 3)]
    runs = [_run(tmp_path / "one", rows), _run(tmp_path / "two", rows[:2])]
    assert main([str(r) for r in runs]) == 0
    assert "total_loss, lr, bbox/AP, bbox/AP50" in capsys.readouterr().out
    with Image.open(runs[0] / "curves.png") as image:
        assert image.format == "PNG" and image.width > 3 * image.height
    assert main([str(runs[0]), "--metrics", "lr", "bbox/AP", "--output", str(tmp_path / "two.png")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/two.png: lr, bbox/AP\n"
    assert plot_curves(runs, tmp_path / "new" / "lr.png", ["lr"]) == ["lr"]
    assert (tmp_path / "new" / "lr.png").stat().st_size > 1000
    found = _run(tmp_path / "three", [{**row, "stages/TPF": None} for row in rows])  # nothing has faded yet
    assert plot_curves([found], tmp_path / "x.png", ["stages/TPF"]) == ["stages/TPF"]
    assert "stages/TPF" not in read_metrics(found)
    with pytest.raises(UserError, match="no run has 'losss'; there are: bbox/AP, "):
        plot_curves(runs, tmp_path / "x.png", ["losss"])


def test_runs_of_one_name_are_told_apart_and_a_paper_gets_a_pdf(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    rows = [{"iteration": i, "total_loss": 9.0 / i} for i in (1, 2)]
    for folder in ("a/seed0", "b/seed0"):
        (tmp_path / folder).mkdir(parents=True)
    runs = [_run(tmp_path / folder / "run", rows) for folder in ("a/seed0", "b/seed0")]
    assert labels([*runs, runs[0] / "metrics.json"]) == ["a/seed0/run", "b/seed0/run", "a/seed0/run"]
    assert labels([runs[0] / "metrics.json"]) == ["run"]
    plot_curves(runs, tmp_path / "curves.pdf")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    for name, message in (("curves.docx", "ends with .png"), ("curves.pdf/x.png", "cannot be written: ")):
        assert dispatch(["plot", str(runs[0]), "--output", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err


def test_runs_without_metrics_and_without_matplotlib(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no metrics.json there"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.json").write_text("")
    with pytest.raises(UserError, match="holds no metrics yet"):
        read_metrics(tmp_path)
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="holds no metrics yet"):
        read_metrics(tmp_path / "image.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'detrex_ext\[viz\]'"):
        plot_curves([tmp_path], tmp_path / "x.png")
