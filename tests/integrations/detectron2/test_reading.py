"""Files that Detectron2 knows, by its checkpointer of release 0.6 and of later sources: nothing in them is executed."""

import http.server
import logging
import pickle
import threading
from urllib.parse import urlparse

import exploits
import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed: tools/install_detectron2.py")
pytestmark = pytest.mark.detectron2

from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from torch import nn  # noqa: E402

from ndpp_dense.integrations.detectron2.checkpoint import CheckpointReadError, NDCheckpointer  # noqa: E402
from ndpp_dense.integrations.detectron2.compat import is_later_source  # noqa: E402
from ndpp_dense.integrations.detectron2.reading import as_detectron2  # noqa: E402

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


class Later(DetectionCheckpointer):
    """As since December 2022: its own `_load_file` works only inside `load`, which knows a query behind the name."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._parsed_url_during_load = None

    def load(self, path, *args, **kwargs):
        assert self._parsed_url_during_load is None
        self._parsed_url_during_load = urlparse(path)
        found = super().load(path, *args, **kwargs)
        self._parsed_url_during_load = None
        return found

    def _load_file(self, filename):
        assert self._parsed_url_during_load is not None, "`_load_file` must be called inside `load`"
        return super()._load_file(filename)


@pytest.fixture(params=["installed", "later"])
def checkpointer(request):
    """Makes a checkpointer on a linear layer."""
    before = NDCheckpointer.__bases__
    if request.param == "later":
        if is_later_source():
            pytest.skip("the installed Detectron2 has the later rules itself")
        NDCheckpointer.__bases__ = (Later,)
    yield lambda folder="": NDCheckpointer(nn.Linear(3, 2), str(folder))
    NDCheckpointer.__bases__ = before


def dump(content, file):
    file.write_bytes(pickle.dumps(content, protocol=2))
    return str(file)


def test_files_of_the_model_zoo_load(checkpointer, tmp_path):
    made = checkpointer()
    weights = {"weight": ARRAY, "bias": np.ones(2, np.float32)}
    made.load(dump({"model": weights, "__author__": "Detectron2 Model Zoo"}, tmp_path / "a.pkl"))
    assert torch.equal(made.model.weight, torch.from_numpy(ARRAY))
    assert torch.equal(made.model.bias, torch.ones(2))
    matched = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    assert checkpointer().load(dump(matched, tmp_path / "b.pkl"))["matching_heuristics"]


def test_runs_resume(checkpointer, tmp_path):
    made = checkpointer(tmp_path)
    made.save("model_0000001", iteration=1)
    again = checkpointer(tmp_path)
    assert again.resume_or_load("", resume=True)["iteration"] == 1
    assert torch.equal(again.model.weight, made.model.weight)


@pytest.mark.parametrize("make", [exploits.pickled, *exploits.TORCH], ids=lambda make: make.__name__)
@pytest.mark.parametrize("suffix", ["pkl", "pyth", "pth"])
def test_no_weights_run_code(checkpointer, tmp_path, make, suffix):
    file, made = str(make(tmp_path / "mark", tmp_path / f"a.{suffix}")), checkpointer()
    for _ in range(2):  # a later Detectron2 is left able to load
        with pytest.raises(CheckpointReadError, match=r"MODEL\.WEIGHTS: .*a\.\w+ "):
            made.load(file)
    assert not (tmp_path / "mark").exists()


def test_layouts():
    blobs = {"conv1_w": ARRAY, "conv1_w_momentum": ARRAY, "weight_order": "x"}
    for content in (blobs, {"blobs": blobs, "cfg": "text"}):
        found = as_detectron2(content, "R-50.pkl")
        assert (list(found["model"]), found["__author__"]) == (["conv1_w"], "Caffe2")
        assert found["matching_heuristics"]
    found = as_detectron2({"model_state": {"a": ARRAY, "b.num_batches_tracked": ARRAY}}, "x.pyth")
    assert (list(found["model"]), found["__author__"]) == (["a"], "pycls")
    assert as_detectron2({"a": ARRAY}, "x.pth") == {"model": {"a": ARRAY}}
    assert as_detectron2({"model": {"a": ARRAY}, "iteration": 3}, "x.pth")["iteration"] == 3
    assert as_detectron2({"state_dict": {"a": ARRAY}, "meta": {}}, "x.pth") == {"model": {"a": ARRAY}, "meta": {}}
    for content in ({"state_dict": {}, "meta": {}}, {"model": {}}, {"model": [1]}, {}):
        with pytest.raises(ValueError, match=r"x\.pth(:| holds) .*no weights but"):
            as_detectron2(content, "x.pth")


def test_weights_at_an_address_with_a_user(tmp_path, monkeypatch, caplog):
    from detectron2.utils.file_io import PathManager

    from ndpp_dense.integrations.detectron2.zoo import register_zoo

    monkeypatch.setenv("NDPP_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    body, seen = dump_bytes(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):  # noqa: N802
            seen.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        register_zoo()
        address = f"http://alice:s3cret@127.0.0.1:{server.server_address[1]}/a.pkl?token=t0ken"
        path = PathManager.get_local_path(address)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert seen == ["Basic YWxpY2U6czNjcmV0"]
    assert path.endswith("a.pkl")
    assert "s3cret" not in path + caplog.text
    assert "t0ken" not in path + caplog.text


def dump_bytes():
    return pickle.dumps({"model": {"weight": ARRAY}, "__author__": "x"}, protocol=2)


@pytest.mark.parametrize("container", ["", "model", "state_dict", "model_state", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module."])
def test_weights_as_scripts_of_users_save_them(checkpointer, tmp_path, container, prefix):
    state = {f"{prefix}{name}": value for name, value in nn.Linear(3, 2).state_dict().items()}
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "own.pth")
    loaded = checkpointer(tmp_path)
    loaded.load(str(tmp_path / "own.pth"))
    assert loaded.model.weight.equal(state[f"{prefix}weight"])
    assert loaded.unmatched == []


def test_no_weights_are_said_to_be_none_and_calibrated_ones_are_not(checkpointer, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert checkpointer(tmp_path).resume_or_load("", resume=False) == {}
        assert "MODEL.WEIGHTS is empty: the model keeps the weights that it was built with" in caplog.text
        caplog.clear()
        assert checkpointer(tmp_path).resume_or_load(None, resume=False) == {}
        assert caplog.text == ""
        assert checkpointer(tmp_path).resume_or_load(None, resume=True) == {}
        assert "starting fresh from calibrated weights" in caplog.text
        checkpointer(tmp_path).resume_or_load("", resume=True)
        assert "starting fresh from random weights" in caplog.text
    assert "scratch" not in caplog.text
