"""What a user can put right ends in a message; a fault of the program keeps its traceback."""

import pickle
import zipfile

import pytest
import torch

from ndpp_dense.cli.errors import Guard, readable_errors, user_message


class StateDictError(RuntimeError):
    """A subclass, as frameworks have them."""


def unpickling():
    pickle.loads(b"junk")


def safetensors():
    from safetensors.torch import load

    load(b"junk" * 10)


def bomb():
    from PIL.Image import DecompressionBombError

    raise DecompressionBombError("Image size (2 pixels) exceeds limit of 1 pixels")


def opencv():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    cv2.resize(None, (0, 0))


def state():
    torch.nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(3, 3)})


def other_state():
    raise StateDictError("Error(s) in loading state_dict for X: size mismatch")


def device():
    torch.device("tpu")


def archive():
    raise zipfile.BadZipFile("File is not a zip file")


def no_file():
    open("nowhere/at/all")  # noqa: SIM115


def memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def worker():
    raise ValueError(
        "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n  x\nValueError: no image"
    )


USER = [
    (unpickling, "damaged or of another kind"),
    (safetensors, "damaged or of another kind"),
    (bomb, "Shrink the image"),
    (opencv, "Look at the file"),
    (state, "The weights are of another model"),
    (other_state, "The weights are of another model"),
    (device, "Choose cpu or cuda"),
    (archive, "damaged"),
    (no_file, "nowhere/at/all: No such file or directory"),
    (memory, "Take a smaller batch"),
    (worker, "no image"),
]


@pytest.fixture(autouse=True)
def no_debugging(monkeypatch):
    monkeypatch.delenv("NDPP_DEBUG", raising=False)


@pytest.mark.parametrize(("cause", "message"), USER, ids=lambda value: getattr(value, "__name__", ""))
def test_a_cause_of_the_users_is_a_message(cause, message, capsys):
    with pytest.raises(SystemExit) as ended, readable_errors(False):
        cause()
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert message in text
    assert "Traceback" not in text
    assert text.endswith(" (--traceback shows where it arose)\n")
    assert text.count("\n") == 1  # what is shown last, in a batch system's mail too, is what is wrong


@pytest.mark.parametrize(
    "fault",
    [
        AssertionError("two is not three"),
        AttributeError("'NoneType' object has no attribute 'weight'"),
        IndexError("list index out of range"),
        KeyError("weight"),
        NotImplementedError("not yet"),
        RecursionError("maximum recursion depth exceeded"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        TypeError("forward() takes 2 positional arguments"),
        UnboundLocalError("x"),
        ZeroDivisionError("division by zero"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_the_program_is_none(fault):
    assert user_message(fault) is None
    with pytest.raises(type(fault)), readable_errors(False):
        raise fault


def test_a_key_error_counts_where_it_holds_a_sentence():
    assert user_message(KeyError("no setting 'lrr'. The nearest: lr")) == "no setting 'lrr'. The nearest: lr"


def test_an_interruption_is_no_error(capsys):
    with pytest.raises(SystemExit) as ended, readable_errors(False):
        raise KeyboardInterrupt
    assert (ended.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_reading_the_guard_sets_the_filters_in_a_new_process():
    import warnings

    written = pickle.dumps(Guard(False))
    with warnings.catch_warnings():
        warnings.resetwarnings()
        guard = pickle.loads(written)
        assert any(entry[0] == "ignore" for entry in warnings.filters)
    with pytest.raises(SystemExit), guard():
        raise ValueError("wrong")
