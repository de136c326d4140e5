"""What no script can find out about a training strategy: what its authors published, and when one would choose it.

Gains are theirs: COCO val2017, R50, 12 epochs unless the line says otherwise; none was measured here.
"""

from __future__ import annotations

from typing import NamedTuple


class Fact(NamedTuple):
    """Of one overlay.

    Attributes:
        gain: published, in AP; "" where nobody published one.
        source: of the gain.
        case: when to choose it, in few words of judgement.
    """

    gain: str = ""
    source: str = ""
    case: str = ""


FACTS = {
    "co": Fact(
        "DINO 5 scales 49.4 -> 52.1",
        "Co-DETR's README, arXiv 2211.12860",
        "where a step may cost the most of all; not shown here",
    ),
    "dac": Fact(
        "Deformable++ 47.6 -> 49.3; with ice over DINO's recipe 50.9",
        "DAC-DETR, NeurIPS 2023",
        "where a fifth of a step more is no matter; on generated shapes it gave 0.5 AP in 600 steps, less than as "
        "much time for the bare model (benchmarks/dac.md)",
    ),
    "dense_o2o": Fact(
        "RT-DETRv2-R50 53.4 -> 54.3 with mal, at half its epochs",
        "DEIM, arXiv 2412.04234",
        "with few objects an image, and a training that is long enough for its phases; not shown here",
    ),
    "deta": Fact(
        "",
        "arXiv 2212.06137",
        "where suppression at test time is no trouble; not shown here",
    ),
    "distill": Fact(
        "",
        "TSP, arXiv 2011.10881",
        "where a trained model of the same architecture is there already; not shown here",
    ),
    "dqr": Fact(
        "",
        "arXiv 2212.07593",
        "for comparison: on six stages it costs twice the sets of sqr",
    ),
    "fcos_rule": Fact(
        "",
        "TSP-FCOS, arXiv 2011.10881",
        "on a two-stage host that learns too slowly at first; not shown here",
    ),
    "group": Fact(
        "DINO 49.0 -> 49.8, as DAC-DETR's paper has it",
        "Group-DETR, arXiv 2207.13085",
        "on a GPU that the host leaves idle: on a CPU it doubled a small model's step (benchmarks/dac.md)",
    ),
    "high_order": Fact(
        "part of 48.7 -> 50.2 over H-DETR",
        "Rank-DETR, arXiv 2310.08854",
        "where boxes matter more than classes; not shown here",
    ),
    "hybrid": Fact(
        "Deformable 43.7 -> 45.9, Deformable++ 47.0 -> 48.7",
        "H-DETR, arXiv 2207.13080",
        "on a GPU that the host leaves idle: the largest gain in 600 steps on generated shapes (5.2 AP), at twice "
        "the time of a step (benchmarks/dac.md)",
    ),
    "ice": Fact(
        "with its ranks 49.0 -> 50.2 over DINO",
        "Align-DETR, arXiv 2304.07527",
        "with dac, whose ranks weigh its pairs: 1.1 AP over dac alone on generated shapes (benchmarks/dac.md)",
    ),
    "mal": Fact(
        "DEIM +0.2 to +1.3 with dense_o2o",
        "DEIM, arXiv 2412.04234",
        "among the first to try, for it adds no queries; not shown here",
    ),
    "any_orientation": Fact(
        "",
        "",
        "for cells, and images from the air; on blood cells it was ahead early and even at 500 steps "
        "(benchmarks/photos.md)",
    ),
    "mosaic": Fact(
        "",
        "",
        "with few objects an image, and a long training: on 131 photographs it lost in 300 steps "
        "(benchmarks/photos.md)",
    ),
    "mr": Fact(
        "DINO 49.0 -> 50.9",
        "Mr.DETR, arXiv 2412.10028",
        "where two more passes of the decoder are no matter; not shown here",
    ),
    "ms": Fact(
        "Deformable++ 47.0 -> 48.8",
        "MS-DETR, arXiv 2401.03989",
        "on hosts with cross-attention first; not shown here",
    ),
    "one_to_many": Fact(
        "",
        "DAC's rule, NeurIPS 2023",
        "as deta, on a host without two stages; not shown here",
    ),
    "roi_rule": Fact(
        "",
        "TSP-RCNN, arXiv 2011.10881",
        "on a two-stage host that learns too slowly at first; not shown here",
    ),
    "sqr": Fact(
        "50 epochs: Deformable 44.5 -> 45.8, DAB 42.2 -> 44.5; AdaMixer 42.5 -> 44.5",
        "SQR, arXiv 2212.07593",
        "where the decoder is small beside the backbone; with six stages it lost in 600 steps on generated shapes "
        "(benchmarks/sqr.md)",
    ),
    "stable": Fact(
        "DINO 49.0 -> 50.4",
        "Stable-DINO, arXiv 2304.04742",
        "among the first to try over DINO, for it adds no queries; not shown here",
    ),
    "stochastic_depth": Fact(
        "",
        "",
        "where a decoder of many stages learns its set by heart; not shown here",
    ),
}
