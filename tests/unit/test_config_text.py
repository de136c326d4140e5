"""A config as Python text."""

from __future__ import annotations

import ast

import pytest
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from detrex_ext.config.python_text import to_py
from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import LazyConfig


def config(**values) -> DictConfig:
    return DictConfig(values, flags={"allow_objects": True})


def test_there_is_a_line_for_each_value_in_order_of_keys():
    cfg = config(b={"y": 2, "x": "${c}"}, a=[1, "two"], c=None)
    text = 'cfg.a = [1, "two"]\ncfg.b.x = None\ncfg.b.y = 2\ncfg.c = None\n'
    assert to_py(cfg) == LazyConfig.to_py(cfg) == text
    assert to_py(cfg, "model.").startswith("model.a = ")
    assert to_py(config()) == "cfg = {}\n"


def test_a_call_is_a_call_and_a_wide_one_takes_several_lines():
    inner = L(nn.Linear)(in_features=1, out_features=2)
    cfg = config(model=L(nn.Sequential)(first=inner, names=["a" * 30, "b" * 30, "c" * 30]), act=nn.ReLU)
    assert to_py(cfg) == (
        "cfg.act = torch.nn.ReLU\n"
        "cfg.model = torch.nn.Sequential(\n"
        "    first=torch.nn.Linear(in_features=1, out_features=2),\n"
        "    names=[\n"
        f'        "{"a" * 30}",\n        "{"b" * 30}",\n        "{"c" * 30}",\n'
        "    ],\n)\n"
    )


@pytest.mark.parametrize("value", ["it's", 'a "b"', "back\\slash", "line\nend", "", "\u00fc\u4e2d", 1e-9, -3, True])
def test_values_are_what_python_reads(value):
    assert ast.literal_eval(to_py(config(a=value)).removeprefix("cfg.a = ")) == value


def test_keys_that_are_no_names_are_written_as_keys():
    cfg = config(**{"a-b": 1, "c": {"d e": {}}})
    cfg[3] = "three"
    text = to_py(cfg)
    assert text == 'cfg[3] = "three"\ncfg["a-b"] = 1\ncfg.c["d e"] = {}\n'
    ast.parse(text)


def test_a_reference_to_nothing_is_an_error():
    with pytest.raises(OmegaConfBaseException):
        to_py(config(a="${nowhere}"))
