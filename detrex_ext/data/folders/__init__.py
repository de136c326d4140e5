"""A folder of images and labels, in any form that it comes in, as COCO files: `prepare(DIR, OUT)`."""

from detrex_ext.data.folders.prepare import Prepared, prepare

__all__ = ["Prepared", "prepare"]
