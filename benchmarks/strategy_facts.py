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
        "over a published host, whose step it hardly lengthens; a small one's it nearly doubles (benchmarks/value.md)",
    ),
    "dac": Fact(
        "Deformable++ 47.6 -> 49.3; with ice over DINO's recipe 50.9",
        "DAC-DETR, NeurIPS 2023",
        "where a tenth of a step more is no matter; on generated shapes it gave 0.5 AP in 600 steps, less than as "
        "much time for the bare model (benchmarks/dac.md)",
    ),
    "dense_o2o": Fact(
        "RT-DETRv2-R50 53.4 -> 54.3 with mal, at half its epochs",
        "DEIM, arXiv 2412.04234",
        "with mal, and first of all where images are few and the training is not short: the largest gain of all that "
        "were tried, ahead at equal time on three sets, with pretrained weights too (benchmarks/value.md)",
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
        "for comparison with roi_rule: no gain beyond the spread of seeds (benchmarks/tsp.md)",
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
        "among the first to try, for it adds no queries; most with dense_o2o (benchmarks/value.md)",
    ),
    "any_orientation": Fact(
        "",
        "",
        "for cells, and images from the air; on blood cells +1 AP after 2,000 steps of one seed (benchmarks/photos.md)",
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
        "on hosts with cross-attention first; its step costs next to nothing",
    ),
    "one_to_many": Fact(
        "",
        "DAC's rule, NeurIPS 2023",
        "as deta, on a host without two stages; not shown here",
    ),
    "roi_rule": Fact(
        "",
        "TSP-RCNN, arXiv 2011.10881",
        "on a two-stage host that learns too slowly at first: 2.5 AP over a small DINO in 500 steps, three seeds "
        "(benchmarks/tsp.md), nothing after 3,000 of the small model (benchmarks/value.md)",
    ),
    "sqr": Fact(
        "50 epochs: Deformable 44.5 -> 45.8, DAB 42.2 -> 44.5; AdaMixer 42.5 -> 44.5",
        "SQR, arXiv 2212.07593",
        "where the decoder is small beside the backbone; with six stages it lost in 600 steps on generated shapes "
        "(benchmarks/sqr.md); begun late, with the weight of one set, it gained nothing (benchmarks/value.md)",
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

# name -> strategy, what is added in training: as README has them
IN_SHORT = {
    "sqr": (
        "[selective query recollection](projects/sqr/README.md)",
        "the query sets of earlier stages, supervised again by later ones",
    ),
    "dqr": ("dense query recollection", "as `sqr`, with the sets of all earlier stages"),
    "stochastic_depth": ("stages skipped at random", "nothing: some stages are left out"),
    "dac": (
        "[divide attention and conquer](projects/dac/README.md)",
        "a second set without self-attention, several queries for each object",
    ),
    "ice": ("IoU-aware classification, alone or after `dac`", "nothing: class targets grow with the box's IoU"),
    "hybrid": (
        "[hybrid queries](projects/hybrid/README.md)",
        "queries apart from the host's, several for each object, with parameters of their own",
    ),
    "group": (
        "[group queries](projects/group/README.md)",
        "groups of queries, each one-to-one, with parameters of their own",
    ),
    "co": (
        "[collaborative heads](projects/co_detr/README.md) (Co-DETR)",
        "heads of dense detectors, and their positives as queries, with parameters for training only",
    ),
    "mr": (
        "[multi-route training](projects/mr_detr/README.md) (Mr. DETR)",
        "a second route, several queries for each object, with parameters for training only",
    ),
    "ms": (
        "[mixed supervision](projects/ms_detr/README.md) (MS-DETR)",
        "heads on each stage's content, several queries for each object, with parameters for training only",
    ),
    "one_to_many": (
        "[one-to-many matching](projects/dac/README.md)",
        "several queries for each object; at test time duplicates are suppressed",
    ),
    "deta": ("DETA's assignment, two-stage hosts", "as `one_to_many`"),
    "fcos_rule": (
        "[matching restricted](projects/tsp/README.md) by FCOS's rule, two-stage hosts",
        "nothing: an object is matched among the queries that lie in it",
    ),
    "roi_rule": ("matching restricted by overlap, two-stage hosts", "nothing: as `fcos_rule`"),
    "distill": (
        "[matching distillation](projects/tsp/README.md), `train.teacher=RUN`",
        "nothing: objects are matched as a trained model matches them",
    ),
    "dense_o2o": (
        "[DEIM's data and schedule](projects/deim/README.md)",
        "nothing: mosaic, mixup and copy-blend in part of the training, flat-cosine schedule",
    ),
    "mal": (
        "[DEIM's matchability-aware loss](projects/deim/README.md)",
        "nothing: class targets grow with the quality of the box",
    ),
    "stable": (
        "[Stable-DINO's loss and cost](projects/stable_dino/README.md)",
        "nothing: class targets and costs depend on how well the box is placed",
    ),
    "high_order": (
        "[Rank-DETR's loss and late matching](projects/rank_detr/README.md)",
        "nothing: class targets by GIoU; late in training, matching by p x IoU^4",
    ),
    "mosaic": (
        "mosaic and mixup: four images in one, two blended",
        "nothing: the images of the first 80 % of the training",
    ),
    "any_orientation": (
        "images without an upright direction: cells, aerial views",
        "nothing: images are flipped vertically, square ones transposed too",
    ),
}
