"""Names of a transformer layer's parts, the authors' and detrex's."""

from __future__ import annotations

import re
from collections.abc import Mapping

_FFN = {"linear1.": "ffns.0.layers.0.0.", "linear2.": "ffns.0.layers.1."}
LAYER_PARTS = {
    "encoder": {"self_attn.": "attentions.0.", **_FFN, "norm1.": "norms.0.", "norm2.": "norms.1."},
    "decoder": {
        **{"self_attn.": "attentions.0.attn.", "cross_attn.": "attentions.1."},
        **{**_FFN, "norm2.": "norms.0.", "norm1.": "norms.1.", "norm3.": "norms.2."},
    },
}
_LAYER = re.compile(r"^transformer\.(encoder|decoder)\.layers\.\d+\.")


def layer_part(key: str, parts: Mapping[str, Mapping[str, str]]) -> str:
    """A key of a transformer's layer with detrex's name of the part; any other as it is."""
    found = _LAYER.match(key)
    if found:
        for theirs, ours in parts[found[1]].items():
            if key.startswith(theirs, found.end()):
                return found[0] + ours + key[found.end() + len(theirs) :]
    return key
