"""What was measured is kept, and shown from the start."""

from ndpp_dense.pretrain.record import Record


def test_the_earliest_of_equal_results_is_the_best(tmp_path):
    record = Record()
    assert record.best is None
    for epoch, top1 in ((1, 10.0), (2, 30.0), (3, 30.0)):
        record.epochs.append({"epoch": epoch, "step": epoch, "lr": 0.1, "train_loss": 1.0, "loss": 1.0})
        record.epochs[-1].update(top1=top1, top5=50.0)
    record.epochs.append({"epoch": 4, "step": 4, "lr": 0.1, "train_loss": 1.0})
    assert record.best is record.epochs[1]
    assert record.results()["last"]["epoch"] == 3
    copy = Record()
    copy.load_state_dict(record.state_dict())
    assert copy.results() == record.results()


def test_files_are_written_before_the_first_evaluation(tmp_path):
    record = Record()
    record.losses.append([1, 2.0, 0.1])
    record.write(tmp_path)
    assert (tmp_path / "summary.csv").read_text().splitlines() == ["epoch,step,lr,train_loss,loss,top1,top5"]
    assert (tmp_path / "curves.png").is_file()
    assert not (tmp_path / "results.json").exists()


def test_results_are_there_though_curves_cannot_be_drawn(tmp_path, monkeypatch, caplog):
    from ndpp_dense.pretrain import record as module

    def broken(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(module, "save_panels", broken)
    record = Record()
    record.epochs = [{"epoch": 1, "step": 2, "lr": 0.1, "train_loss": 1.0, "loss": 1.0, "top1": 50.0, "top5": 90.0}]
    record.write(tmp_path)
    assert (tmp_path / "results.json").is_file()
    assert (tmp_path / "summary.csv").is_file()
    assert "curves.png was not drawn (RuntimeError: no fonts)" in caplog.text
