"""The official DAC-DETR, whole, against our shipped config filled from its file.

``DETREX_EXT_DAC`` names a checkout of huzhengdongcs/DAC-DETR.
"""

from __future__ import annotations

import pytest
import torch

from .forced import computing_in, watched_choice
from .peer_dac import CONFIG, FLAGS, compare, names_of_losses, official_package, skip_without_checkout
from .whole import STAGES, compare_gradients, compare_sets, inputs, pair, run_ours, stages

skip_without_checkout()


@pytest.fixture(scope="module")
def official():
    with official_package() as package:
        yield package


@pytest.mark.parametrize(
    ("dtype", "of_sets", "of_losses"),
    [(torch.float64, 1e-12, 1e-12), (torch.float32, 5e-5, 1e-5)],
    ids=["fp64", "fp32"],
)
def test_the_shipped_config_is_the_released_model(official, tmp_path, dtype, of_sets, of_losses):
    """The same images, noise and objects: sets of both branches and of denoising, all 75 losses, all gradients."""
    name = f"DAC-DETR, {str(dtype)[-7:]}"
    both, given = pair(official.load, FLAGS, CONFIG, [], tmp_path, dtype), inputs(dtype)
    torch.manual_seed(7)
    with computing_in(dtype), watched_choice(900) as chosen:
        outputs = both.peer(given.images, given.theirs())
        wanted = both.criterion(outputs, given.theirs(), given.theirs(3))
    torch.manual_seed(7)
    sets, losses = run_ours(both.ours, given, chosen[0])

    known = [outputs[f"dn_meta{x}"]["output_known_lbs_bboxes"] for x in ("", "_cdecoder")]
    compare_sets(f"{name}: sets", sets, ("main", "plain"), stages(outputs), of_sets)
    compare_sets(f"{name}: sets", sets, ("main", "aux"), stages(outputs, "_cdecoder", "_cdecoder"), of_sets)
    compare_sets(f"{name}: sets", sets, ("dn", "plain"), stages(known[0]), of_sets)
    compare_sets(f"{name}: sets", sets, ("dn", "aux"), stages(known[1], "_cdecoder", "_cdecoder"), of_sets)
    assert sum(float((s.boxes_BQ4 < 1e-3).double().sum()) for s in sets) > 100  # where constants matter
    compare(f"{name}: losses", losses.stats, wanted, both.criterion.weight_dict.__getitem__, STAGES, of_losses)
    if dtype == torch.float64:
        sum(both.criterion.weight_dict[key] * wanted[key] for _, key in names_of_losses(STAGES)).backward()
        sum(losses.values()).backward()
        compare_gradients(f"{name}: gradients", both, 1e-9)
