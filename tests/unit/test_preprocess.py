from __future__ import annotations

import pytest
import torch

from detrex_ext.modeling.preprocess import Preprocess

MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]


def _batch(*sizes, dtype=torch.uint8):
    torch.manual_seed(0)
    return [{"image": torch.randint(0, 256, (3, *size)).to(dtype)} for size in sizes]


def test_images_are_normalized_and_padding_is_zero():
    batch = _batch((6, 9), (8, 5))
    out = Preprocess()(batch)
    assert out.images_B3HW.shape == (2, 3, 8, 9)
    for x, item in zip(out.images_B3HW, batch, strict=True):
        _, h, w = item["image"].shape
        assert torch.equal(x[:, :h, :w], (item["image"] - MEAN) / STD)
        assert not x[:, h:].any() and not x[:, :, w:].any()
    assert out.image_hw_B2.tolist() == [[6, 9], [8, 5]]


@pytest.mark.parametrize(
    ("parity", "training", "valid"),
    [
        (False, True, [[6, 9], [8, 5]]),
        (False, False, [[6, 9], [8, 5]]),
        (True, True, [[6, 9], [8, 5]]),
        (True, False, [[8, 9], [8, 9]]),
    ],
)
def test_valid_area_for_masks(parity, training, valid):
    out = Preprocess(parity_padding=parity).train(training)(_batch((6, 9), (8, 5)))
    assert out.valid_hw_B2.tolist() == valid
    assert out.image_hw_B2.tolist() == [[6, 9], [8, 5]]


def test_float_and_uint8_images_are_the_same_and_inputs_stay():
    batch = _batch((6, 9))
    before = batch[0]["image"].clone()
    a = Preprocess()(batch)
    b = Preprocess()([{"image": batch[0]["image"].float()}])
    assert torch.equal(a.images_B3HW, b.images_B3HW)
    assert torch.equal(batch[0]["image"], before)


def test_memory_format_divisor_and_dtype():
    batch = _batch((6, 9), (8, 5))
    plain = Preprocess(channels_last=False)(batch).images_B3HW
    last = Preprocess()(batch).images_B3HW  # the default on a CPU
    assert plain.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, plain)
    padded = Preprocess(size_divisor=16)(batch).images_B3HW
    assert padded.shape == (2, 3, 16, 16) and torch.equal(padded[:, :, :8, :9], plain)
    assert Preprocess().double()(batch).images_B3HW.dtype == torch.float64


def test_buffers_are_not_in_the_state_dict():
    assert not Preprocess().state_dict()


@pytest.mark.parametrize("image", [torch.zeros(4, 5), torch.zeros(1, 4, 5), torch.zeros(3, 0, 5)])
def test_bad_images_are_refused_with_their_shape(image):
    with pytest.raises(ValueError, match="image 1 .*shape"):
        Preprocess()([*_batch((4, 4)), {"image": image}])
    with pytest.raises(ValueError, match="without images"):
        Preprocess()([])


def test_channels_in_the_other_order():
    items = _batch((5, 7), (6, 4))
    plain, other = (Preprocess(size_divisor=4, bgr=bgr)(items).images_B3HW for bgr in (False, True))
    assert torch.equal(other, plain.flip(1))
