"""A disk that is full, a quota, a limit of the file size: named, with the checkpoint before whole and nothing half."""

import errno
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ndpp_dense.atomic_file import replacing
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.results_file import write_results
from ndpp_dense.robustness.shift.partial import PartialResults
from ndpp_dense.training.checkpoint_files import save_checkpoint
from ndpp_dense.training.log_files import forgiving, forgiving_writer
from ndpp_dense.weights.seal import check_seal

ROOT = Path(__file__).resolve().parents[2]
SIZE = 1 << 20


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of a megabyte."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no program 'mount' here")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a test that failed may hold a file open


@pytest.fixture
def disk(small_disk):
    """The file system, empty, and a function that leaves so many bytes of it free."""
    for path in small_disk.iterdir():
        path.unlink()

    def fill(free):
        found = os.statvfs(small_disk)
        with (small_disk / "filler").open("wb") as stream:
            stream.write(b"\0" * (found.f_bavail * found.f_frsize - free))

    return small_disk, fill


def state(value):
    return {"model": {"w": torch.full((50_000,), float(value))}, "state_dict": {}}


def write_with_torch(path, value):
    save_checkpoint(path, lambda stream: torch.save(state(value), stream), value)


def write_with_mmengine(path, value):
    """As MMEngine's CheckpointHook does, which writes bytes that torch.save has made in memory."""
    pytest.importorskip("mmengine", reason="mmengine is not installed")
    from mmengine.runner import save_checkpoint as save

    import ndpp_dense.integrations.mmengine.checkpoint as own

    save(state(value), str(path), backend_args={"backend": own._BACKEND})


@pytest.mark.parametrize("write", [write_with_torch, write_with_mmengine])
@pytest.mark.parametrize("free", [0, 8192, 100_000, 180_000])
def test_the_checkpoint_before_survives_and_no_half_file_stays(disk, write, free):
    folder, fill = disk
    write(folder / "iter_1.pth", 1)
    fill(free)
    with pytest.raises(OSError, match=r"No space left on device") as caught:
        write(folder / "iter_2.pth", 2)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in folder.iterdir()) == ["filler", "iter_1.pth", "run.json"]
    assert check_seal(folder / "iter_1.pth")["step"] == 1
    assert torch.load(folder / "iter_1.pth", weights_only=True)["model"]["w"][0] == 1
    (folder / "filler").unlink()
    write(folder / "iter_2.pth", 2)
    assert check_seal(folder / "iter_2.pth")["step"] == 2


def test_results_logs_and_pictures_on_a_full_disk(disk, caplog, capsys):
    folder, fill = disk
    write_results({"a": 1}, folder / "results.json")
    kept = PartialResults(folder, {})
    (folder / "log.txt").touch()
    fill(0)
    before = (folder / "results.json").read_text()
    with pytest.raises(OSError, match="No space left on device"):
        write_results({str(number): number for number in range(9000)}, folder / "results.json")
    assert (folder / "results.json").read_text() == before
    with pytest.raises(OSError, match="No space left on device"):
        kept.write(0, {"top1": torch.rand(9000).numpy()})
    with drawing(folder / "curves.png"), (folder / "curves.png").open("wb") as stream:
        stream.write(b"\0" * 90_000)
    assert "curves.png was not drawn (OSError: [Errno 28] No space left on device)" in caplog.text
    capsys.readouterr()  # handlers of the root logger that others left behind have their say about the warning above
    handler = forgiving(logging.FileHandler(folder / "log.txt"))
    for _ in range(3):
        handler.emit(logging.LogRecord("a", logging.INFO, "", 0, "x" * 9000, None, None))
    (folder / "filler").unlink()  # what is buffered can go
    handler.close()
    told = capsys.readouterr().err
    assert told.count("log.txt: No space left on device: lines of the log are missing") == 1
    assert "Traceback" not in told


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_fullness_is_named_with_the_file(tmp_path, number):
    def full(stream):
        stream.write(b"half")
        raise OSError(number, os.strerror(number))

    words = f"{os.strerror(number)}: .* was not written, files written before are whole"
    with pytest.raises(OSError, match=words) as caught:
        save_checkpoint(tmp_path / "last.pth", full, 3)
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "last.pth"))
    with pytest.raises(OSError, match=words), replacing(tmp_path / "a.csv") as path, path.open("wb") as stream:
        full(stream)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_records_of_a_training_are_missed_in_one_line(disk, caplog):
    """Detectron2's metrics.json and TensorBoard's file."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
    from detectron2.utils.events import EventStorage

    from ndpp_dense.integrations.detectron2.writers import open_writers

    folder, fill = disk
    writers = open_writers(folder, flush_secs=1, max_queue=1)
    fill(0)
    with EventStorage(0) as storage:
        for _ in range(60):
            storage.put_scalars(**{f"loss{number}": 1.0 for number in range(90)})
            for writer in writers:
                writer.write()
            storage.step()
    (folder / "filler").unlink()
    for writer in writers:
        writer.close()
    said = sorted(message for message in caplog.messages if "records are missing" in message)
    assert said == [f"{folder}{name}: No space left on device: records are missing from here on." for name in NAMES]
    for path in folder.iterdir():
        path.unlink()


NAMES = (", TensorBoard", "/metrics.json")


def test_other_errors_of_writers_are_not_forgiven():
    class Writer:
        def write(self):
            raise FileNotFoundError(errno.ENOENT, "gone")

    writer = Writer()
    forgiving_writer(writer, ["write"], "a")
    with pytest.raises(FileNotFoundError):
        writer.write()


LIMITED = """
import sys, resource, torch
from pathlib import Path
from ndpp_dense.training.checkpoint_files import save_checkpoint
path = Path(sys.argv[1])
def save(value):
    save_checkpoint(path, lambda stream: torch.save({"w": torch.full((value,), 1.0)}, stream), value)
save(1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    save(100_000)
except OSError as error:
    print(type(error).__name__, error.errno, error)
"""


def test_a_limit_of_the_file_size_is_named_like_a_full_disk(tmp_path):
    """What a user without rights meets too."""
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("the size of files is limited here already")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "last.pth")]
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert run.stdout.startswith(
        f"OSError {errno.EFBIG} [Errno {errno.EFBIG}] File too large: last.pth was not written"
    )
    assert check_seal(tmp_path / "last.pth")["step"] == 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pth", "run.json"]
