"""What a row of the index may change in a config: an index is data, and may be hostile."""

import json

import pytest

from ndpp_dense.zoo import ZooError, ZooIndex, load_index
from ndpp_dense.zoo.index import content_digest, write_index
from ndpp_dense.zoo.overrides import check_overrides

HOSTILE = [
    ("mmseg", ["model.type=os.system"]),
    ("mmseg", ["model.decode_head.type=os.system"]),
    ("mmseg", ["model={'type': 'os.system', 'command': 'true', '_delete_': True}"]),
    ("mmseg", ["model.ndpp.architecture=os.system"]),
    ("mmseg", ["model.ndpp.rules={'x': {'type': 'os.system'}}"]),
    ("mmseg", ["model.ndpp.rules={'x': [{'y': {'_delete_': True}}]}"]),
    ("mmseg", ["model.ndpp.rules={'_scope_': 'mmdet'}"]),
    ("mmseg", ["model.ndpp.rules={'architecture': 'x'}"]),
    ("mmseg", ["model.backbone.init_cfg={'type': 'Pretrained', 'checkpoint': '/etc/passwd'}"]),
    ("mmseg", ["model.backbone.init_cfg.checkpoint=x.pth"]),
    ("mmseg", ["model.backbone.depth={'type': 'os.system'}"]),
    ("mmseg", ["model.backbone.depth=[{'type': 'os.system'}]"]),
    ("mmseg", ["model.backbone.norm_cfg.type=os.system"]),
    ("mmseg", ["custom_imports={'imports': ['this']}"]),
    ("mmseg", ["custom_imports.imports=['this']"]),
    ("mmseg", ["custom_hooks=[{'type': 'os.system'}]"]),
    ("mmseg", ["test_dataloader.dataset.type=os.system"]),
    ("mmseg", ["test_dataloader.dataset.data_root=/etc"]),
    ("mmseg", ["test_dataloader.dataset.pipeline=[{'type': 'os.system'}]"]),
    ("mmseg", ["test_dataloader.collate_fn.type=os.system"]),
    ("mmseg", ["work_dir=/etc"]),
    ("mmseg", ["load_from=x.pth"]),
    ("mmseg", ["optim_wrapper.type=os.system"]),
    ("mmseg", ["visualizer.vis_backends=[{'type': 'os.system'}]"]),
    ("mmseg", ["env_cfg.mp_cfg.mp_start_method=x"]),
    ("mmseg", ["_base_=x.py"]),
    ("mmseg", ["_delete_=True"]),
    ("mmseg", ["model.decode_head._scope_=mmdet"]),
    ("mmseg", ["model.backbone.depth=18\nx=1"]),
    ("mmseg", ["model.backbone.pattern=/etc/passwd"]),
    ("mmseg", ["model.backbone.depth=" + "[" * 2000]),
    ("mmseg", ["model.backbone.depth=" + "(" * 900]),
    ("mmseg", ["model.backbone.depth"]),
    ("mmseg", ["model.backbone.depth=__import__('os').system('true')"]),
    ("detectron2", ["OUTPUT_DIR", "/etc"]),
    ("detectron2", ["MODEL.WEIGHTS", "x.pkl"]),
    ("detectron2", ["MODEL.DEVICE", "cuda"]),
    ("detectron2", ["MODEL.META_ARCHITECTURE", "x"]),
    ("detectron2", ["MODEL.BACKBONE.NAME", "x"]),
    ("detectron2", ["MODEL.RPN.HEAD_NAME", "../x"]),
    ("detectron2", ["MODEL.ROI_HEADS.NAME", "x"]),
    ("detectron2", ["MODEL.LOAD_PROPOSALS", "True"]),
    ("detectron2", ["DATASETS.TEST", "('x',)"]),
    ("detectron2", ["DATASETS.PROPOSAL_FILES_TEST", "('x.pkl',)"]),
    ("detectron2", ["_BASE_", "x.yaml"]),
    ("detectron2", ["MODEL.NDPP.RULES", "{'x': {'type': 'os.system'}}"]),
    ("detectron2", ["MODEL.FPN.OUT_CHANNELS"]),
    ("timm", ["weights=x.pth"]),
    ("timm", ["name=resnet50"]),
    ("timm", ["compile=True"]),
    ("timm", ["_base_=x.yaml"]),
    ("timm", ["ndpp={'architecture': 'x'}"]),
    ("timm", ["interpolation=!!python/object/apply:os.system ['true']"]),
]


@pytest.mark.parametrize(("framework", "words"), HOSTILE, ids=lambda value: str(value)[:60])
def test_hostile_overrides_are_refused_when_the_index_is_read(zoo, framework, words):
    index = zoo("http://127.0.0.1:9")
    write_index(index)
    content = json.loads(index.path.read_text())
    content["models"][0].update(framework=framework, overrides=words)
    content["digest"] = content_digest(content)
    index.path.write_text(json.dumps(content))
    with pytest.raises(ZooError, match=r"row 'toy'.*(override|cannot be printed)"):
        load_index(index.path)


@pytest.mark.parametrize(
    ("framework", "words"),
    [
        ("mmseg", ["model.backbone.depth=18", "model.data_preprocessor.size=(128,160)", "model.ndpp.preset=paper"]),
        ("mmseg", ["model.ndpp.rules={'*.conv2': {'eps': 0.1}, 'stem': False}", "val_dataloader.num_workers=0"]),
        ("detectron2", ["MODEL.RPN.CONV_DIMS", "[16]", "INPUT.MASK_FORMAT", "bitmask", "MODEL.NDPP.PRESET", "fast"]),
        ("timm", ["ndpp.preset=paper", "image_size=64"]),
    ],
)
def test_sizes_and_whitening_may_be_set(framework, words):
    check_overrides(words, "row")


def test_a_config_of_another_folder_is_never_meant(zoo, tmp_path, monkeypatch):
    """A file in the current folder with the name of a config is a user's own, and is not what a row means."""
    from ndpp_dense.config_files import find_config, packaged_config

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mask_rcnn_ndpp").write_text("")
    assert find_config("mask_rcnn_ndpp").parent.name != "detectron2"
    assert packaged_config("mask_rcnn_ndpp").parent.name == "detectron2"
    for name in ("setup.py", "../x", "x.yaml", ""):
        index = zoo("http://127.0.0.1:9")
        write_index(index)
        content = json.loads(index.path.read_text())
        content["models"][0]["config"] = name
        content["digest"] = content_digest(content)
        index.path.write_text(json.dumps(content))
        with pytest.raises(ZooError, match="the bare name of a config"):
            load_index(index.path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("note", "\x1b]0;title\x07"),
        ("command", "make\rrm -r ."),
        ("classes", ["\x1b[2J"]),
        ("min_version", "9" * 5000),
        ("version", 10**30),
        ("image_size", [10**9, 10**9]),
        ("image_size", [0, 1]),
        ("image_size", [1]),
    ],
    ids=str,
)
def test_other_fields_are_held_too(zoo, field, value):
    index = zoo("http://127.0.0.1:9")
    write_index(index)
    content = json.loads(index.path.read_text())
    content["models"][0][field] = value
    content["digest"] = content_digest(content)
    index.path.write_text(json.dumps(content))
    with pytest.raises(ZooError, match=f"row 'toy'.*{field}"):
        load_index(index.path)


@pytest.mark.parametrize(
    "base", ["file:///etc", "/etc", "s3://bucket", "ssh://host/x", "", "http://x/\n", "memory://x"]
)
def test_bases_of_an_index_are_web_addresses(zoo, base):
    index = zoo("http://127.0.0.1:9")
    write_index(ZooIndex(index.path, (base,), index.models))
    with pytest.raises(ZooError, match="base url"):
        load_index(index.path)


def test_every_ndpp_setting_may_be_set():
    from ndpp_dense.conversion.options import OPTIONS

    check_overrides([f"ndpp.{name}=1" for name in OPTIONS], "row")
