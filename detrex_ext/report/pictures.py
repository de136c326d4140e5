"""Images inside a page: JPEG as data URIs, within a size that the whole page may have."""

from __future__ import annotations

import base64
import io

from PIL import Image

from .html import Html, el

_WIDTH, _HEIGHT = 520, 520
_QUALITY = 72


class Pictures:
    """Makes ``img`` elements until the bytes are used up.

    Args:
        most: bytes of all of them, as they stand in the page.

    Attributes:
        left_out: how many found no room.
    """

    def __init__(self, most: int = 4_000_000) -> None:
        self._left, self.left_out = most, 0

    def img(self, image: Image.Image, about: str, longest: int = _WIDTH) -> Html:
        """The image, made smaller where it is larger than ``longest`` pixels; a line of text where there is no room."""
        small = image.convert("RGB")
        small.thumbnail((longest, min(longest, _HEIGHT)), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=_QUALITY, optimize=True)
        code = base64.b64encode(file.getvalue()).decode("ascii")
        if len(code) > self._left:
            self.left_out += 1
            return el("p", f"{about}: left out, the page is large enough", class_="muted")
        self._left -= len(code)
        return el("img", src=Html(f"data:image/jpeg;base64,{code}"), alt=about, width=small.width, height=small.height)
