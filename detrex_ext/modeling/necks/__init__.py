"""Necks: backbone maps by name in, a list of maps of one width, finest first, out."""

from .channel_mapper import ChannelMapper
from .pafpn import PAFPN

__all__ = ["PAFPN", "ChannelMapper"]
