"""`docs/config.md`, from the declarations: ``python -m detrex_ext.config.options_docs > docs/config.md``."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from detrex_ext.config import config_roots, get_config, target_name
from detrex_ext.runtime.standalone.calls import locate

from .options_keys import KEYS
from .options_targets import Argument, arguments, is_ours
from .options_types import UNKNOWN, Option, item
from .options_words import described, shown

# (title, package, the constructors in it)
ROOMS = (
    ("Loaders", "detrex_ext.data", "build_train_loader build_test_loader CocoDataset DetrMapper"),
    ("Augmentation", "detrex_ext.data", "ResizeShortestEdge Resize RandomFlip RandomTranspose RandomCrop "
     "RandomAffine RandomChannelGain RandomColor Mosaic MixUp CopyBlend During"),
    ("Evaluator", "detrex_ext.evaluation", "CocoEvaluator"),
    ("Optimizer", "torch.optim", "AdamW SGD"),
    ("Parameters of the optimizer", "detrex_ext.runtime.standalone.solver", "get_default_optimizer_params"),
    ("Two optimizers in one", "detrex_ext.engine", "SGDAndAdamW two_optimizer_params"),
    ("Learning rate by name", "detrex_ext.engine", "LrFactor"),
    ("Schedules", "detrex_ext.engine.schedule", "warmed_up multistep_schedule constant_then_cosine"),
    ("Schedules of fvcore", "fvcore.common.param_scheduler", "CosineParamScheduler"),
    ("The detector", "detrex_ext.modeling.detector", "Detector"),
    ("Preprocessing", "detrex_ext.modeling.preprocess", "Preprocess"),
    ("Backbones", "detrex_ext.modeling.backbones", "ResNet BasicResNet SwinTransformer MobileNetV2 "
     "TimmBackbone"),
    ("Necks", "detrex_ext.modeling.necks", "ChannelMapper FPN InputProj PAFPN"),
    ("Encoders", "detrex_ext.modeling.encoders", "DeformableEncoder DenseEncoder FlattenEncoder FoIEncoder "
     "RoIEncoder RPN"),
    ("Query sources", "detrex_ext.modeling.queries", "LearnedQueries PositionQueries AnchorQueries "
     "WholeImageQueries TwoStageQueries TokenQueries DenoisingQueries GroupQueries HybridQueries"),
    ("Decoders", "detrex_ext.modeling.decoders", "DETRDecoder DABDecoder DeformableDecoder AdaMixerDecoder "
     "FCOSHead RegionHead TokenHead"),
    ("Post-processing", "detrex_ext.modeling.postprocess", "Postprocess"),
    ("Rules of supervision", "detrex_ext.criterion", "Rule Term detr_rule hybrid_rule "
     "tsp_fcos_rule tsp_token_rule tsp_rcnn_rule rpn_rule atss_rule region_rule"),
    ("Matchers", "detrex_ext.matching", "HungarianMatcher OneToManyMatcher TopKMatcher RepeatedMatcher GivenMatcher "
     "FCOSMatcher RoIMatcher LateMatcher"),
    ("Costs", "detrex_ext.matching", "FocalClassCost SoftmaxClassCost L1Cost GIoUCost "
     "PositionClassCost HighOrderCost"),
    ("Losses", "detrex_ext.criterion", "FocalLoss SoftmaxLoss L1Loss GIoULoss AlignedLoss VarifocalLoss "
     "QualityFocalLoss MatchabilityLoss PositionLoss GIoUAwareLoss CentralGIoULoss CenternessLoss RegionSoftmaxLoss "
     "DeltaLoss ClassBoxGIoULoss AnchorGIoULoss"),
    ("What losses are divided by", "detrex_ext.criterion", "NumObjects NumCandidates SumOfCenterness ClassDenorm "
     "NumRegions NumImages PairsOfImages"),
    ("Strategies", "detrex_ext.strategies", "QueryRecollection DivideAndConquer StochasticDepth "
     "MultiRoute MixedSupervision CollaborativeHeads"),
)  # fmt: skip

_HEAD = """\
# Options of a config

Written by `python -m detrex_ext.config.options_docs > docs/config.md` from the declarations in
`detrex_ext/config/options_keys.py` and `options_arguments.py`, the annotations and the docstrings; edit those.

Every config is held to this page when it is read and when a training begins: an unknown option, a value of another type
or out of its range ends in one message that names the nearest that would do. Defaults are those of `configs/common` and
of the constructors; where a model of `configs/common/models` states another, it stands behind the default.
"""
_LINE = "| Option | Type | Default | Range | Unit | Meaning |\n|---|---|---|---|---|---|"


def text() -> str:
    """The whole page."""
    parts = [_HEAD, "## Training, data set\n", _LINE, *_keys()]
    stated = _stated()
    for title, package, names in ROOMS:
        parts.append(f"\n## {title}")
        for name in names.split():
            parts += ["", *_constructor(locate(f"{package}.{name}"), f"{package}.{name}", stated.get(name, {}))]
    return "\n".join(parts) + "\n"


def _keys() -> Iterator[str]:
    train = get_config("common/train.py")
    data = get_config("common/data/affine.py")
    for key, option in KEYS.items():
        home: Any = data if key.startswith(("dataset.", "dataloader.")) else train
        if key.startswith("optimizer."):
            home = {"optimizer": get_config("common/optim.py").AdamW}
        value = OmegaConf.select(OmegaConf.create(home, flags={"allow_objects": True}), key, default=UNKNOWN)
        if value is not UNKNOWN:  # an option of before is taken, but not shown
            yield _row(key, Argument(option.type or str, value, option), option.meaning)


def _constructor(target: Any, name: str, stated: dict[str, dict[str, list[str]]]) -> Iterator[str]:
    """Heading, first sentence and table of a class or function."""
    foreign = not is_ours(target)
    yield f"### `{name.replace('.standalone.solver', '')}`\n"
    summary = "" if foreign else _clean((inspect.getdoc(target) or "").split("\n\n")[0])
    if summary:
        yield f"{summary}\n"
    meanings = {} if foreign else meanings_of(target)
    rows = [(n, a) for n, a in arguments(target)[0].items() if not foreign or a.option != Option()]
    if not rows:
        yield "No options."
        return
    yield _LINE
    for argument, known in rows:
        yield _row(argument, known, meanings.get(argument) or known.option.meaning, stated.get(argument, {}))


def _row(name: str, argument: Argument, meaning: str, stated: dict[str, list[str]] | None = None) -> str:
    default = "–" if argument.default is UNKNOWN else f"`{shown(_listed(argument.default))}`"
    users = {one for who in (stated or {}).values() for one in who}
    others = [
        f"{'all models' if len(users) > 1 and users == set(who) else ', '.join(who)}: `{value}`"
        for value, who in (stated or {}).items()
        if f"`{value}`" != default
    ]
    kind = described(argument.kind, argument.option).replace(" (a section with _target_)", "")
    cells = ("; ".join([default, *others]), interval(argument.option), argument.option.unit, meaning)
    return f"| `{name}` | {kind} | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def interval(option: Option) -> str:
    """Bounds as mathematics has them: ``[0, 1)``."""
    o, inf = option, math.inf
    low = f"[{o.least:,}" if o.least is not None else f"({o.above:,}" if o.above is not None else ""
    high = f"{o.most:,}]" if o.most not in (None, inf) else f"{o.below:,})" if o.below is not None else "∞]"
    sizes = "" if o.items == (0, inf) else f"{o.items[0]}" if o.items[0] == o.items[1] else f"≥ {o.items[0]}"
    return ", ".join(p for p in (f"{low}, {high}" if low else "", f"{sizes} entries" if sizes else "") if p)


def meanings_of(target: Any) -> dict[str, str]:
    """Argument -> meaning, from the ``Args`` or ``Attributes`` of the Google docstring, a base class's too."""
    found: dict[str, str] = {}
    for one in inspect.getmro(target) if isinstance(target, type) else (target,):
        sources = [one.__doc__ or "", *([one.__init__.__doc__ or ""] if isinstance(one, type) else [])]
        for doc in sources:
            block = re.search(r"^(?:Args|Attributes):\n((?: +.*\n|\n)*)", inspect.cleandoc(doc) + "\n", re.MULTILINE)
            for entry in re.findall(r"^ {4}(\S.*(?:\n {5,}.*)*)", block[1] if block else "", re.MULTILINE):
                names, _, meaning = entry.partition(": ")
                for name in names.split(","):
                    found.setdefault(name.strip(), _clean(meaning))
    return found


def _clean(doc: str) -> str:
    doc = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", doc)
    return re.sub(r"\s+", " ", doc.replace("``", "`").replace('"`', "`").replace('`"', "`")).strip()


def _stated() -> dict[str, dict[str, dict[str, list[str]]]]:
    """Constructor -> argument -> value -> the models of `configs/common` that state it."""
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for file in sorted((config_roots()[0] / "common" / "models").glob("*.py")):
        for target, name, value in _calls(get_config(f"common/models/{file.name}").model):
            who = found.setdefault(target, {}).setdefault(name, {}).setdefault(shown(_listed(value)), [])
            who.append(file.stem) if file.stem not in who else None
    return found


def _calls(node: Any) -> Iterator[tuple[str, str, Any]]:
    """(constructor, argument, value) of every plain argument that a config states."""
    names: Iterable[Any] = range(len(node)) if isinstance(node, ListConfig) else node.keys()
    for name in names:
        child = node._get_node(name)
        if isinstance(child, DictConfig | ListConfig) and not child._is_interpolation():
            yield from _calls(child)
        scalars = not isinstance(child, DictConfig) and not child._is_interpolation() and "_target_" in node
        if scalars and name != "_target_" and not any(isinstance(x, DictConfig) for x in _listed(item(node, name), [])):
            yield target_name(node), name, item(node, name)


def _listed(value: Any, other: Any = UNKNOWN) -> Any:
    if isinstance(value, ListConfig | list | tuple):
        return list(value)
    return value if other is UNKNOWN else other


if __name__ == "__main__":
    print(text(), end="")
