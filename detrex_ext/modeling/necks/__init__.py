"""Necks: backbone maps by name in, a list of maps of one width, finest first, out."""

from .channel_mapper import ChannelMapper
from .fpn import FPN
from .input_proj import InputProj
from .pafpn import PAFPN

__all__ = ["FPN", "PAFPN", "ChannelMapper", "InputProj"]
