"""Which form a folder has, by what lies in it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from detrex_ext.data.folders.coco import looks_coco, read_coco
from detrex_ext.data.folders.cvat import read_cvat
from detrex_ext.data.folders.documents import Reading
from detrex_ext.data.folders.files import Unreadable, read_any_json, xml_children, xml_root
from detrex_ext.data.folders.label_studio import is_label_studio, read_label_studio
from detrex_ext.data.folders.listing import Listing
from detrex_ext.data.folders.notes import Notes, shortened
from detrex_ext.data.folders.voc import read_voc
from detrex_ext.data.folders.yolo import label_files, read_yolo
from detrex_ext.data.folders.yolo_names import is_description
from detrex_ext.errors import UserError

_FORMS = """\
  expected one of
    COCO         a JSON file with "images", "annotations" and "categories" for each split, such as train.json,
                 annotations/instances_train.json or train/_annotations.coco.json
    YOLO         data.yaml, and a .txt for each image: images/train and labels/train, or train/images and train/labels
    Pascal VOC   an .xml for each image, such as Annotations/ and JPEGImages/
    CVAT         annotations.xml of "CVAT for images"
    Label Studio its JSON, COCO, YOLO or Pascal VOC export"""
_PEEK = 64 << 20
# Folders of images that a folder of labels alone may lie beside.
_BESIDE = ("images", "JPEGImages")


def read_folder(root: Path, images: Path | None = None, only: str = "") -> Reading:
    """The images and boxes of a folder in any form that is known.

    Args:
        root: the folder.
        images: another one that its images lie in.
        only: a file in it that says which form is meant; "" for what is found.

    Raises:
        UserError: no form is recognised, or what is there cannot be used.
    """
    listing, notes = Listing(root, images, only), Notes()
    found = _found(listing)
    beside = next((root.parent / name for name in _BESIDE if (root.parent / name).is_dir()), None)
    if found and not listing.images and images is None and beside is not None:
        listing = Listing(root, beside, only)
        notes.say(f"the images are those of ../{beside.name}")
    if not found:
        raise UserError(f"--data {root}: no data set is recognised\n  found {_held(listing)}\n"
                        + "".join(f"  {hint}\n" for hint in _hints(listing)) + _FORMS)  # fmt: skip
    (notes.layout, read), *others = found.items()
    if others:
        notes.say(f"the folder also looks like {', '.join(name for name, _ in others)}; {notes.layout} comes first")
    if not listing.images:
        raise UserError(f"--data {root}: {notes.layout}, and no image below it\n  found {_held(listing)}\n"
                        "  name the folder of the images: --data-images DIR")  # fmt: skip
    for path, why in sorted(listing.passed.items()):
        notes.leave_out(f"folder that was not entered ({why})", path)
    return read(listing, notes)


def _found(listing: Listing) -> dict[str, Callable[[Listing, Notes], Reading]]:
    """Forms that the folder may have, the one that is meant first."""
    found: dict[str, Callable[[Listing, Notes], Reading]] = {}
    jsons = listing.ending(".json")
    if cocos := [path for path in jsons if looks_coco(listing.root / path)]:
        found["COCO"] = lambda files, notes: read_coco(files, cocos, notes)
    elif tasks := [path for path in jsons if _is_tasks(listing, path)]:
        found["Label Studio"] = lambda files, notes: read_label_studio(files, _one(tasks), notes)
    roots = {path: xml_root(listing.root / path) for path in listing.ending(".xml")}
    if cvats := [path for path, name in roots.items() if name == "annotations"]:
        found["CVAT for images"] = lambda files, notes: read_cvat(files, _one(cvats), notes)
    about = [path for path in listing.ending(".yaml", ".yml") if is_description(listing, path)]
    about = about or [path for path in listing.ending(".data") if PurePosixPath(path).name == "obj.data"]
    labels = label_files(listing)
    if about or labels:
        found["YOLO"] = lambda files, notes: read_yolo(files, labels, notes, _one(about) if about else "")
    if "annotation" in roots.values():  # a file that cannot be read is one too: its image is no background
        vocs = [path for path, name in roots.items() if name in ("annotation", "")]
        found["Pascal VOC"] = lambda files, notes: read_voc(files, vocs, notes)
    return found


def _is_tasks(listing: Listing, path: str) -> bool:
    if not (listing.root / path).is_file():
        return False
    try:
        with open(listing.root / path, "rb") as file:
            if not file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                return False
        return is_label_studio(read_any_json(listing.root / path, 1 << 30))
    except (OSError, Unreadable):
        return False


def _one(paths: list[str]) -> str:
    """The file that lies highest; a `UserError` where two do."""
    depth = min(path.count("/") for path in paths)
    highest = [path for path in paths if path.count("/") == depth]
    named = [path for path in highest if PurePosixPath(path).stem.casefold() in ("data", "dataset", "annotations")]
    if len(highest) > 1 and len(named) != 1:
        raise UserError(f"several files that describe the data: {shortened(highest)}\n  name one: --data FILE")
    return (named or highest)[0]


def _held(listing: Listing) -> str:
    """How many files of each ending."""
    counts = Counter(PurePosixPath(path).suffix.lower() or "(no ending)" for path in listing.files)
    shown = [f"{count} {ending}" for ending, count in counts.most_common(8)]
    top = sorted({PurePosixPath(path).parts[0] for path in listing.files})
    return f"{', '.join(shown)}; at the top {shortened(top)}" if shown else "no files"


def _hints(listing: Listing) -> list[str]:
    """What the folder may be meant as."""
    hints = []
    endings = {PurePosixPath(path).suffix.lower() for path in listing.files}
    if packed := listing.ending(".zip", ".tar", ".tar.gz", ".tgz", ".rar", ".7z"):
        hints.append(f"{packed[0]} is packed: unpack it first")
    for ending, name in ((".csv", "tables"), (".tfrecord", "TFRecords"), (".parquet", "tables of datasets")):
        if ending in endings:
            hints.append(f"{ending} files ({name}) are not read: export the set as COCO")
    for path in listing.ending(".xml")[:1]:
        hints.append(f"{path} {_kind_of_xml(listing.root / path)}")
    for path in listing.ending(".json")[:3]:
        hints.append(f"{path} {_kind_of_json(listing.root / path)}")
    if listing.images and endings <= {PurePosixPath(path).suffix.lower() for path in listing.images}:
        hints.append("images alone have no boxes; predict RUN DIR draws what a model finds on them")
    return hints


def _kind_of_xml(path: Path) -> str:
    try:
        deque(xml_children(path, _PEEK), maxlen=0)
    except Unreadable as error:
        return f"cannot be read: {error}"
    return f"has the root <{xml_root(path)[:80]}>, expected <annotation> or <annotations>"


def _kind_of_json(path: Path) -> str:
    try:
        data = read_any_json(path, _PEEK)
    except Unreadable as error:
        return f"cannot be read: {error}"
    keys = data if isinstance(data, dict) else data[0] if isinstance(data, list) and data else {}
    if not isinstance(keys, dict):
        return "is no annotation file"
    if "shapes" in keys:
        return "looks like LabelMe: export the set as COCO (labelme2coco)"
    if {"image", "annotations"} <= set(keys):
        return "looks like CreateML: export the set as COCO"
    if {"image_id", "bbox", "score"} <= set(keys):
        return "is a list of detections, not of what is true"
    return f"has the keys {shortened(sorted(map(str, keys)))}, which are not COCO's"
