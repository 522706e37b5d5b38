"""Segmentors through the measurement of shifts."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.mmseg
pytest.importorskip("mmseg", reason="MMSegmentation is not installed: extra 'mmseg'")
CONFIG = """
_base_ = ["{base}"]
streets = dict(data_root="{root}")
test_dataloader = dict(dataset=streets)
val_dataloader = dict(dataset=streets)
train_dataloader = dict(dataset=streets)
"""


@pytest.fixture
def opened(tmp_path):
    import ndpp_dense.integrations.mmseg  # noqa: F401  (makes MMSegmentation importable)
    from ndpp_dense.config_files import find_config
    from ndpp_dense.datasets.streets import ensure_streets
    from ndpp_dense.integrations.mmseg.shift import open_segmentor

    root = ensure_streets(tmp_path, num_train=1, num_val=3, height=64)
    config = tmp_path / "small.py"
    config.write_text(CONFIG.format(base=find_config("deeplabv3_ndpp_demo"), root=root))
    return lambda **options: open_segmentor("ndpp://deeplabv3_ndpp_demo", config=str(config), **options)


def test_pictures_labels_and_answers(opened):
    subject = opened(limit=2)
    assert len(subject.images) == 2
    picture, labels = subject.images[0]
    assert tuple(picture.shape) == (3, 64, 128)
    assert labels.shape == (64, 128)
    assert subject.task.num_classes == 8
    assert labels.max() < 8
    answer = subject.predict(picture[None])[0]
    assert np.mean(answer == labels) > 0.7  # trained on larger ones of the kind
    assert subject.facts["weights"] == "ndpp://deeplabv3_ndpp_demo"


def test_measured(opened):
    from ndpp_dense.robustness.shift import measure_shifts, shift_grid

    result = measure_shifts(opened(limit=2), shift_grid([-8, 8], "y"), batch_size=2)
    assert [measure.name for measure in result.measures] == ["mIoU", "agreement"]
    assert result.values("agreement")[0] == 1
    assert (result.values("agreement")[1:] > 0.7).all()
    assert (result.values("agreement")[1:] < 1).all()
    assert result.losses("mIoU")[0] == 0


def test_labels_of_another_size_and_without_a_class():
    from ndpp_dense.integrations.mmseg.shift import SegmentationImages
    from ndpp_dense.robustness.shift.segmentation import UNLABELLED

    class Sample:
        def __init__(self, data):
            self.data = data

    class Folder:
        metainfo, ignore_index = {"classes": ("a", "b")}, 1

        def __len__(self):
            return 2

        def __getitem__(self, number):
            labels = {"gt_sem_seg": Sample(torch.tensor([[[0, 1], [255, 0]]]))} if number else {}
            return {"inputs": torch.zeros(3, 4, 4, dtype=torch.uint8), "data_samples": labels}

    none, some = SegmentationImages(Folder())
    assert none[1] is None
    expected = np.array([[0, UNLABELLED], [UNLABELLED, 0]]).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(some[1], expected)


def test_weights_need_a_config(tmp_path):
    import ndpp_dense.integrations.mmseg  # noqa: F401
    from ndpp_dense.integrations.mmseg.shift import open_segmentor

    with pytest.raises(ValueError, match="some.pth: name the config"):
        open_segmentor("some.pth")
