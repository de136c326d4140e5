"""Every host as an ONNX file and as torch's own: the same predictions as the model gives (`-m slow`)."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.errors import UserError
from detrex_ext.export import files
from detrex_ext.export.fitting import Fitting
from detrex_ext.export.graph import FromFrames, FromPixels, Graph

from .hosts import ALL_HOSTS

FRAME = 96, 128


def _graph(host: str, kind: type[Graph]) -> Graph:
    model = ALL_HOSTS[host]().eval().requires_grad_(False)
    if host.startswith("tsp-fcos"):
        model.decoder.bbox_embed.bias.add_(2.0)  # else its random boxes are empty
    return kind(model, Fitting(FRAME, 90, 128)).eval()


def _inputs(kind: type[Graph], batch: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    if kind is FromPixels:
        size = (150, 110) if batch == 1 else (60, 75)
        return (torch.randint(0, 256, (batch, *size, 3), generator=generator, dtype=torch.uint8),)
    sizes = torch.tensor([[96.0, 128.0], [64.0, 96.0], [96.0, 72.0]])[:batch]
    return torch.randn(batch, 3, *FRAME, generator=generator), sizes


def _same(run: files.Run, graph: Graph, batches=(3, 1)) -> None:
    for batch in batches:
        given = _inputs(type(graph), batch)
        with torch.no_grad():
            boxes, scores, labels = graph(*given)
        found = run(given)
        torch.testing.assert_close(found[1], scores, rtol=0, atol=1e-4)
        apart = (scores[:, 1:] - scores[:, :-1]).abs().min() > 1e-5  # else two may have changed places
        assert scores.max() > 0.01 and found[0].shape == boxes.shape
        if apart:
            torch.testing.assert_close(found[0], boxes, rtol=0, atol=1e-2)
            assert torch.equal(found[2], labels)


@pytest.mark.slow
@pytest.mark.parametrize("host", ALL_HOSTS)
@pytest.mark.parametrize("kind, grid_sample", [(FromPixels, True), (FromFrames, False)])
def test_every_host_by_onnxruntime(tmp_path, host, kind, grid_sample):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnx

    graph, path = _graph(host, kind), tmp_path / "model.onnx"
    files.write(files.capture(graph, grid_sample), path, {"inputs": list(kind.inputs), "version": "1"})
    _same(files.runner(path), graph)
    made = onnx.load(path)
    onnx.checker.check_model(made, full_check=True)
    operators = {node.op_type for node in made.graph.node} | {n.op_type for f in made.functions for n in f.node}
    assert grid_sample or "GridSample" not in operators
    assert {entry.version for entry in made.opset_import if not entry.domain} == {18}
    assert str(tmp_path.parent) not in str(made) and ".py" not in str(made)  # nothing of this machine


@pytest.mark.slow
@pytest.mark.parametrize("host", ALL_HOSTS)
def test_every_host_by_torch_export(tmp_path, host):
    graph, path = _graph(host, FromPixels), tmp_path / "model.pt2"
    files.write(files.capture(graph), path, {"inputs": ["images"], "version": "1"})
    _same(files.runner(path), graph)


def test_what_goes_box_by_box_is_refused():
    model = ALL_HOSTS["tsp-fcos"]().eval()
    model.postprocess.soft = "linear"
    with pytest.raises(UserError, match="model.postprocess.soft=linear goes box by box"):
        FromPixels(model, Fitting(FRAME, 90, 128))
    with pytest.raises(UserError, match="export knows Detector, found Linear"):
        FromPixels(torch.nn.Linear(2, 2), Fitting(FRAME, 90, 128))
    model.postprocess = lambda *_: []
    with pytest.raises(UserError, match="model.postprocess is function: export knows Postprocess"):
        FromFrames(model, Fitting(FRAME, 90, 128))
