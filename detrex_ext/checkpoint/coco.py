"""The 80 classes of COCO: names by category id, which has gaps. Class index k is the k-th id."""

from __future__ import annotations

_NAMES = (
    "1 person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant",
    "13 stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe",
    "27 backpack,umbrella",
    "31 handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
    "tennis racket,bottle",
    "46 wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,"
    "chair,couch,potted plant,bed",
    "67 dining table",
    "70 toilet",
    "72 tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator",
    "84 book,clock,vase,scissors,teddy bear,hair drier,toothbrush",
)


def _categories() -> dict[int, str]:
    found = {}
    for run in _NAMES:
        first, names = run.split(" ", 1)
        found.update(enumerate(names.split(","), int(first)))
    return found


COCO_CATEGORIES: dict[int, str] = _categories()
COCO_NAMES: tuple[str, ...] = tuple(COCO_CATEGORIES.values())
COCO_IDS: tuple[int, ...] = tuple(COCO_CATEGORIES)
