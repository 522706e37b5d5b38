"""Measurements against a plain loop; interrupted ones; what is refused."""

import csv
import json

import numpy as np
import pytest
import torch

from ndpp_dense.robustness.shift import (
    BORDERS,
    SegmentationTask,
    Subject,
    draw_shift,
    measure_shifts,
    shift_grid,
    shift_record,
    translate,
    write_shift_csv,
    write_shift_json,
)
from ndpp_dense.robustness.shift.report import shift_table

SHIFTS = shift_grid([-4, -1, 2, 6], "grid")


@pytest.mark.parametrize("border", BORDERS)
def test_as_a_loop_over_images_and_shifts(subject, border):
    one = subject()
    result = measure_shifts(one, SHIFTS, border=border, batch_size=2)
    assert result.num_images == 5
    for place, shift in enumerate(SHIFTS):
        answers = [one.predict([translate(p, shift, border)])[0].argmax() for p in one.images.pictures]
        first = [one.predict([p])[0].argmax() for p in one.images.pictures]
        assert result.values("accuracy")[place] == pytest.approx(np.mean(np.equal(answers, one.images.labels)))
        assert result.values("agreement")[place] == pytest.approx(np.mean(np.equal(answers, first)))
    assert result.values("agreement")[0] == 1


def test_losses_are_those_of_the_definition(subject):
    result = measure_shifts(subject(), SHIFTS)
    values = result.values("confidence")
    short = result.summary("confidence", resamples=200)
    losses = 1 - values / values[0]
    assert short.at_zero == pytest.approx(values[0])
    assert short.mean_loss == pytest.approx(losses[1:].mean(), abs=1e-6)
    assert short.worst_loss == pytest.approx(losses[1:].max(), abs=1e-6)
    assert short.worst_shift == SHIFTS[int(np.argmax(losses[1:])) + 1]
    low, high = short.mean_loss_interval
    assert low <= short.mean_loss <= high
    assert low < high
    assert result.summary("confidence", resamples=200) == short  # the draws are seeded


def test_the_interval_narrows_with_images(subject, pictures):
    widths = []
    for count in (8, 128):
        result = measure_shifts(subject(pictures(count)), SHIFTS, batch_size=64)
        low, high = result.summary("confidence").mean_loss_interval
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5


def test_each_picture_is_read_once_and_asked_about_once_a_shift(subject, pictures):
    images, asked = pictures(), []

    def predict(batch):
        asked.append(len(batch))
        return [np.array([0.0, 1.0]) for _ in batch]

    measure_shifts(subject(images, predict), SHIFTS, batch_size=2)
    assert images.read == [0, 1, 2, 3, 4]
    assert sum(asked) == 5 * len(SHIFTS)
    assert len(asked) == 3 * len(SHIFTS)


def test_an_interrupted_run_goes_on_where_it_was(subject, pictures, tmp_path):
    whole = measure_shifts(subject(), SHIFTS, batch_size=2)
    calls = []

    def stops(batch):
        calls.append(1)
        if len(calls) > len(SHIFTS) + 3:
            raise KeyboardInterrupt
        return subject().predict(batch)

    with pytest.raises(KeyboardInterrupt):
        measure_shifts(subject(predict=stops), SHIFTS, batch_size=2, partial=tmp_path / "part")
    (tmp_path / "part" / "batch_000001.npz").write_bytes(b"PK\x03\x04 not whole")  # a damaged file is made anew
    images = pictures()
    resumed = measure_shifts(subject(images), SHIFTS, batch_size=2, partial=tmp_path / "part")
    assert images.read == [2, 3, 4]
    for name in whole.counts:
        assert np.array_equal(whole.counts[name], resumed.counts[name])
    again = pictures()
    measure_shifts(subject(again), SHIFTS, batch_size=2, partial=tmp_path / "part")
    assert again.read == []
    with pytest.raises(ValueError, match=r"part of another measurement \(border: other values\)"):
        measure_shifts(subject(), SHIFTS, batch_size=2, border="zero", partial=tmp_path / "part")
    with pytest.raises(ValueError, match=r"\(sha256: other values\)"):
        measure_shifts(subject(facts={"sha256": "0"}), SHIFTS, batch_size=2, partial=tmp_path / "part")
    (tmp_path / "part" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings.json is damaged .* to start again"):
        measure_shifts(subject(), SHIFTS, batch_size=2, partial=tmp_path / "part")


def test_pictures_of_different_sizes():
    labels = [torch.randint(0, 3, (6, 9)), torch.randint(0, 3, (8, 5))]
    images = [(label.float().expand(3, *label.shape), label.numpy()) for label in labels]
    one = Subject("copies", lambda ps: [p[0].long().numpy() for p in ps], images, SegmentationTask(3))
    result = measure_shifts(one, shift_grid([-2, 3], "grid"))
    assert (result.values("mIoU") == 1).all()
    assert (result.losses("agreement") == 0).all()


def test_without_labels_only_agreement_is_measured(subject, pictures):
    result = measure_shifts(subject(pictures(labels=False)), SHIFTS)
    assert [measure.name for measure in result.measures] == ["agreement", "confidence"]
    with pytest.raises(ValueError, match="no measure 'accuracy' was counted, only agreement, confidence"):
        result.values("accuracy")
    mixed = pictures()
    mixed.labels[3] = None
    with pytest.raises(ValueError, match=r"images 0 to 4: some have labels and some have none \(accuracy\)"):
        measure_shifts(subject(mixed), SHIFTS)


def test_constant_pictures_lose_nothing(subject, pictures):
    images = pictures()
    images.pictures[:] = 0.5
    images.labels = [0] * 5
    result = measure_shifts(subject(images), shift_grid(range(-8, 8), "x"), border="mirror")
    assert result.summary("accuracy").mean_loss == 0
    record = json.loads(json.dumps(shift_record(result, resamples=20)))
    assert record["measures"]["accuracy"]["worst_relative_loss"] == 0
    assert "accuracy" in shift_table(record)


def test_nothing_to_lose_is_said_to_be_undefined(subject, pictures):
    images = pictures()
    images.labels = [5] * 5
    result = measure_shifts(subject(images), SHIFTS)
    record = shift_record(result, resamples=20)
    assert record["measures"]["accuracy"]["mean_relative_loss"] is None
    assert "undefined" in shift_table(record)


def nan(batch):
    return [np.array([0.0, np.nan if len(batch) < 5 else 1.0]) for _ in batch]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"border": "wrap"}, "border = 'wrap'"),
        ({}, {"batch_size": 0}, "batch_size = 0: it must be at least 1"),
        ({}, {"shifts": [(0, 0)]}, r"must begin with \(0, 0\) and have another"),
        ({}, {"shifts": [(0, 0), (0, 16)]}, r"image 0 has 16 x 12 pixels .* a shift of 16 columns"),
        ({"images": []}, {}, "halves: there are no images to measure"),
        ({"predict": nan}, {"batch_size": 4}, r"image 0 at shift 0 down, 0 right: 1 class scores are not finite"),
        ({"predict": lambda batch: []}, {}, "halves gave 0 answers to 5 images"),
    ],
)
def test_refused(subject, change, options, message):
    with pytest.raises(ValueError, match=message):
        measure_shifts(subject(**change), options.pop("shifts", SHIFTS), **options)


@pytest.mark.parametrize("along", ["cross", "grid", "x", "diagonal"])
def test_files(subject, tmp_path, along):
    result = measure_shifts(subject(stride=2), shift_grid(range(-4, 4), along))
    record = shift_record(result, {"config": "none"}, resamples=20)
    write_shift_json(record, tmp_path / "a" / "shift.json")
    write_shift_csv(result, tmp_path / "a" / "shift.csv")
    draw_shift(result, tmp_path / "a" / "shift.png")
    assert json.loads((tmp_path / "a" / "shift.json").read_text()) == record
    assert record["settings"] == {"config": "none"}
    assert bool(record["measures"]["accuracy"]["spectrum"]) is (along != "diagonal")
    with (tmp_path / "a" / "shift.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(result.shifts)
    assert float(rows[0]["agreement"]) == 1
    assert float(rows[0]["accuracy_low"]) <= float(rows[0]["accuracy"]) <= float(rows[0]["accuracy_high"])
    assert (tmp_path / "a" / "shift.png").read_bytes().startswith(b"\x89PNG")
    assert (result.plane("accuracy") is not None) is (along == "grid")


def test_the_map_is_in_the_order_of_the_shifts(subject):
    result = measure_shifts(subject(), SHIFTS)
    downs, rights, values = result.plane("confidence")
    assert downs.tolist() == rights.tolist() == [-4, -1, 0, 2, 6]
    for place, (down, right) in enumerate(SHIFTS):
        at = values[downs.tolist().index(down), rights.tolist().index(right)]
        assert at == pytest.approx(result.values("confidence")[place])
