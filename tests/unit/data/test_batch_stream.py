"""Batches are pure functions of seed, client and place in the run; pairs stay pairs."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tavit_flwr.data import BatchStream, LazyImages, Sample, held_out_pairs
from tavit_flwr.degrade import DEGRADATIONS, Degrade, degradation
from tavit_flwr.errors import ConfigError, DataError
from tavit_flwr.seeding import generator

_PLACES = st.tuples(
    st.integers(0, 5), st.sampled_from(["task-specific", "task-agnostic"]), st.integers(0, 5), st.integers(0, 50)
)


def _random_image(name, height, width):
    return torch.randint(0, 256, (3, height, width), generator=generator(0, name), dtype=torch.uint8)


def _images(sizes=((20, 30), (16, 16), (40, 18))):
    named = {f"image{index}": size for index, size in enumerate(sizes)}
    return LazyImages(tuple(named), lambda name: Sample(name, _random_image(name, *named[name])))


def _twin_pairs(difference=0):
    images = _images()

    def read(name):
        clean = images.load(images.names.index(name)).clean_CHW
        return Sample(name, clean, clean ^ difference)

    return LazyImages(images.names, read)


def _stream(images=None, degrade=None, **changes):
    arguments = {"crop": 16, "batch_size": 4, "seed": 0, "client": "denoise-0"} | changes
    return BatchStream(images or _images(), degrade or degradation("noise", {}), **arguments)


def _first_diff(a, b):
    return not torch.equal(a.clean_BCPP, b.clean_BCPP) or not torch.equal(a.degraded_BCPP, b.degraded_BCPP)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_batches_have_shape_type_and_range(name):
    batch = _stream(degrade=degradation(name, {})).batch(0, "task-specific", 0, 0)
    for crops in (batch.degraded_BCPP, batch.clean_BCPP):
        assert crops.shape == (4, 3, 16, 16)
        assert crops.dtype == torch.float32
        assert -1 <= crops.min() < -0.25
        assert 0.25 < crops.max() <= 1


@given(
    place=_PLACES,
    others=st.lists(_PLACES, max_size=3),
    seed=st.integers(0, 2**31),
    name=st.sampled_from([*DEGRADATIONS]),
)
@settings(max_examples=40, deadline=None)
def test_a_batch_is_a_pure_function_of_its_place(place, others, seed, name):
    first = _stream(degrade=degradation(name, {}), seed=seed).batch(*place)
    torch.manual_seed(seed + 1)
    used = _stream(degrade=degradation(name, {}), seed=seed)
    for other in others:
        used.batch(*other)
    again = used.batch(*place)
    assert torch.equal(first.clean_BCPP, again.clean_BCPP)
    assert torch.equal(first.degraded_BCPP, again.degraded_BCPP)


def test_every_part_of_the_place_the_seed_and_the_client_matter():
    place = (1, "task-specific", 2, 3)
    first = _stream().batch(*place)
    for other in ((0, *place[1:]), (1, "task-agnostic", 2, 3), (1, "task-specific", 0, 3), (*place[:3], 4)):
        assert _first_diff(first, _stream().batch(*other))
    assert _first_diff(first, _stream(seed=1).batch(*place))
    assert _first_diff(first, _stream(client="denoise-1").batch(*place))


def test_first_crops_do_not_depend_on_the_batch_size():
    large, small = _stream(batch_size=6).batch(0, "p", 0, 0), _stream(batch_size=2).batch(0, "p", 0, 0)
    assert torch.equal(large.degraded_BCPP[:2], small.degraded_BCPP)


@given(place=_PLACES, seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_both_images_of_a_pair_are_cut_turned_and_flipped_alike(place, seed):
    same = BatchStream(_twin_pairs(), None, crop=9, batch_size=5, seed=seed, client="c").batch(*place)
    assert torch.equal(same.degraded_BCPP, same.clean_BCPP)
    inverse = BatchStream(_twin_pairs(255), None, crop=9, batch_size=5, seed=seed, client="c").batch(*place)
    assert torch.allclose(inverse.degraded_BCPP, -inverse.clean_BCPP, atol=1e-6)


def test_pairs_are_taken_as_they_are_even_with_a_degradation():
    batch = _stream(_twin_pairs(), degradation("noise", {})).batch(0, "p", 0, 0)
    assert torch.equal(batch.degraded_BCPP, batch.clean_BCPP)


def test_all_eight_orientations_all_positions_and_all_photographs_occur():
    corner = torch.zeros(3, 3, 3, dtype=torch.uint8)
    corner[:, 0, 0], corner[:, 0, 1] = 200, 100
    one = LazyImages(("corner",), lambda name: Sample(name, corner))
    batch = BatchStream(one, degradation("noise", {}), crop=3, batch_size=800, seed=0, client="c").batch(0, "p", 0, 0)
    counts = Counter(crop.numpy().tobytes() for crop in batch.clean_BCPP)
    assert len(counts) == 8
    assert all(65 < count < 135 for count in counts.values())

    position = torch.arange(12, dtype=torch.uint8).view(1, 3, 4).repeat(3, 1, 1)
    two = LazyImages(("a", "b"), lambda name: Sample(name, position + (100 if name == "b" else 0)))
    batch = BatchStream(two, degradation("noise", {}), crop=1, batch_size=600, seed=0, client="c").batch(0, "p", 0, 0)
    values = {round(float(value)) for value in ((batch.clean_BCPP[:, 0] + 1) / 2 * 255).flatten()}
    assert values == {*range(12), *range(100, 112)}


def test_crops_are_degraded_with_real_context_and_mirrored_ends():
    """A 3x3 mean with a margin of one equals the mean of the whole mirrored image at the crop's place."""

    def mean(clean_CHW, draw, variant):
        padded = torch.nn.functional.pad(clean_CHW[None], (1, 1, 1, 1), mode="reflect")
        return torch.nn.functional.avg_pool2d(padded, 3, 1)[0]

    images = _images(((12, 14),))
    whole = mean(images.load(0).clean_CHW.float() / 255, None, 0)
    turned = [torch.rot90(view, k, (-2, -1)) for view in (whole, whole.flip(-1)) for k in range(4)]
    windows = torch.stack(
        [
            view[:, y : y + 10, x : x + 10]
            for view in turned
            for y in range(view.shape[1] - 9)
            for x in range(view.shape[2] - 9)
        ]
    )
    stream = _stream(images, Degrade("mean", mean, margin_px=1), crop=10, batch_size=30)
    for crop in (stream.batch(0, "p", 0, 0).degraded_BCPP + 1) / 2:
        assert float((windows - crop).abs().amax((1, 2, 3)).min()) < 1e-5


def test_a_margin_larger_than_the_photograph_is_no_error():
    wide = degradation("motion_blur", {"length_px": [60, 60]})
    assert _stream(_images(((16, 16),)), wide).batch(0, "p", 0, 0).degraded_BCPP.shape == (4, 3, 16, 16)


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(DataError, match=r"16x16 pixels.*image0"):
        _stream(_images(((15, 40),))).batch(0, "p", 0, 0)
    with pytest.raises(DataError, match="a pair"):
        BatchStream(_images(), None, crop=8, batch_size=1, seed=0, client="c").batch(0, "p", 0, 0)
    with pytest.raises(DataError, match="client c"):
        BatchStream(LazyImages((), Sample), None, crop=8, batch_size=1, seed=0, client="c")
    with pytest.raises(ConfigError, match=r"data\.crop"):
        _stream(crop=0)
    with pytest.raises(ConfigError, match=r"data\.batch_size"):
        _stream(batch_size=0)


@pytest.mark.parametrize(
    "images",
    [
        (torch.zeros(3, 4, 4, dtype=torch.float64),),
        (torch.zeros(1, 4, 4, dtype=torch.uint8),),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 5, dtype=torch.uint8)),
    ],
)
def test_a_sample_of_wrong_type_shape_or_unequal_sizes_is_refused(images):
    with pytest.raises(DataError, match="odd"):
        Sample("odd", *images)


def test_held_out_pairs_are_whole_equal_each_time_and_take_variants_in_turn():
    degrade = degradation("jpeg", {"qualities": [5, 90]})
    first, again = (list(held_out_pairs(_images(), degrade, seed=0, task="deblock")) for _ in range(2))
    assert [pair.label for pair in first] == ["q5", "q90", "q5"]
    assert [pair.name for pair in first] == ["image0", "image1", "image2"]
    assert [tuple(pair.clean_CHW.shape[1:]) for pair in first] == [(20, 30), (16, 16), (40, 18)]
    for index, (a, b) in enumerate(zip(first, again, strict=True)):
        assert torch.equal(a.degraded_CHW, b.degraded_CHW)
        assert torch.allclose((a.clean_CHW + 1) / 2 * 255, _images().load(index).clean_CHW.float(), atol=1e-4)
    noisy = [
        next(held_out_pairs(_images(), degradation("noise", {}), seed=s, task=t))
        for s, t in ((0, "a"), (1, "a"), (0, "b"))
    ]
    assert not torch.equal(noisy[0].degraded_CHW, noisy[1].degraded_CHW)
    assert not torch.equal(noisy[0].degraded_CHW, noisy[2].degraded_CHW)


def test_held_out_pairs_of_files_are_taken_as_they_are():
    pair = next(held_out_pairs(_twin_pairs(255), None, seed=0, task="derain"))
    assert torch.allclose(pair.degraded_CHW, -pair.clean_CHW, atol=1e-6)
    with pytest.raises(DataError, match="a pair"):
        next(held_out_pairs(_images(), None, seed=0, task="derain"))
