import copy
import json
import shutil
import time
import types
from dataclasses import replace
from functools import partial

import benchmark
import pytest
import torch
import torch.distributed as dist
from bench import collectives as bench_collectives
from bench import peers as bench_peers
from bench import report as bench_report
from bench import solver as bench_solver
from bench import suites as bench_suites
from bench import tables as bench_tables
from bench.case import Case, Settings, Suite
from bench.measure import case_records, measure_case
from bench.memory import memory_step
from bench.profile import PARTS, profile
from bench.timing import interleave, seconds, summarise
from PIL import Image
from torch import nn

from ndpp_dense import NDConv2d, WhiteningConfig, create_backbone


def _steps(order, values):
    """Steps that note when they run, and yield a value each time."""
    return {label: lambda label=label: order.append(label) or next(values[label]) for label in values}


def test_rounds_rotate_and_drop_the_warm_up():
    order = []
    values = {"a": iter([9, 1, 2, 3]), "b": iter([9, 2, 4, 6]), "c": iter([9, 5, 5, 5])}
    found = interleave(_steps(order, values), lambda step: step(), rounds=3, warmup=1, budget=60)
    assert found == {"a": [1, 2, 3], "b": [2, 4, 6], "c": [5, 5, 5]}
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"


@pytest.mark.parametrize(("rounds", "budget", "kept"), [(10, 0, 3), (2, 0, 2), (5, 60, 5)])
def test_the_budget_ends_a_case_but_three_rounds_are_kept(rounds, budget, kept):
    found = interleave({"a": lambda: time.sleep(0.001)}, seconds, rounds, 1, budget)
    assert len(found["a"]) == kept
    assert min(found["a"]) >= 0.001


def test_no_round_begins_that_would_go_beyond_the_budget(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("bench.timing.time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def ten_seconds(step):
        now[0] += 10
        return 10.0

    assert len(interleave({"a": lambda: None}, ten_seconds, 100, 0, 55)["a"]) == 5


def test_ratios_are_of_the_same_round():
    found = summarise({"base": [1.0, 10.0, 2.0, 4.0], "peer": [2.0, 20.0, 4.0, 8.0], "noisy": [4.0, 10.0, 1.0, 16.0]})
    assert found["peer"]["ratio"] == 2
    assert found["peer"]["ratio_quartiles"] == [2, 2]
    assert found["base"]["median"] == 3
    assert found["noisy"]["ratio"] == 2.5
    assert found["noisy"]["ratio_quartiles"] == [0.875, 4]


def _missing():
    raise ImportError("no such thing\nmore")


def _fails_later():
    calls = iter([None])
    return lambda: next(calls)


def _nan():
    return lambda: torch.tensor(float("nan"))


def test_a_peer_that_fails_is_named_and_the_others_are_measured():
    peers = {"away": _missing, "here": lambda: lambda: None, "later": _fails_later, "nan": _nan}
    outcome = measure_case(Case("size", peers), Settings(rounds=2), seconds, lambda label: None)
    assert {label: len(values) for label, values in outcome.values.items()} == {"here": 2, "nan": 2}
    assert outcome.skipped == {"away": "ImportError: no such thing", "later": "StopIteration: no message"}
    assert outcome.notes == {"nan": "its result is not finite"}
    (record,) = case_records(Case("size", {"away": _missing}), Settings(), lambda label: None)
    assert (record["peers"], record["rounds"]) == ({}, 0)


def test_a_known_culprit_is_not_built_and_every_peer_is_told_of_before():
    begun = []
    peers = {"bad": lambda: pytest.fail("built"), "good": lambda: lambda: None}
    outcome = measure_case(Case("", peers), Settings(rounds=1), seconds, str, begun.append, {"bad": "it hung"})
    assert outcome.skipped == {"bad": "it hung"}
    assert begun == ["good", ""]


@pytest.mark.parametrize("rehearse", [False, True])
def test_peaks_are_a_case_of_their_own(rehearse):
    def keeps(megabytes):
        def step():
            torch.zeros(int(megabytes * 250_000)).sum()

        return lambda: step

    case = Case("size", {"small": keeps(1), "large": keeps(3)}, peak=True)
    times, peaks = case_records(case, Settings(rounds=1, warmup=0, rehearse=rehearse), str)
    assert list(times["peers"]) == ["small", "large"]
    assert (peaks["name"], peaks["unit"]) == ("peak memory, size", "MB")
    assert peaks["peers"]["large"]["median"] == pytest.approx(3, abs=0.1)
    assert peaks["peers"]["large"]["ratio"] == pytest.approx(3, abs=0.1)


def test_iternorm_whitens():
    mixing = torch.eye(8) + 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    x = torch.einsum("ij,njhw->nihw", mixing, torch.randn(8, 8, 24, 24)) + 3
    norm = bench_peers.IterNorm2d(8, group=4, num_iters=9, momentum=1.0)
    y = norm(x)
    rows = y.transpose(0, 1).reshape(2, 4, -1)
    assert rows.mean(-1).abs().max() < 1e-4
    assert (rows @ rows.transpose(1, 2) / rows.shape[-1] - torch.eye(4)).abs().max() < 1e-2
    torch.testing.assert_close(norm.eval()(x), y)


@pytest.mark.parametrize(
    ("shape", "side"),
    [((8, 6, 3, 2, 1), 24), ((64, 8, 1), 30), ((3, 8, 7, 2, 3), 40), ((8, 4, 3, 1, 2, 2), 9)],
    ids=["3x3", "1x1", "stem", "dilated, few rows"],
)
def test_the_obvious_way_equals_the_paper_preset(shape, side):
    layer = NDConv2d(*shape, config=WhiteningConfig.paper("imagenet")).double()
    peer = bench_peers.obvious(nn.Sequential(copy.deepcopy(layer)))[0]
    assert type(peer) is bench_peers.UnfoldNDConv2d
    x = torch.randn(4, shape[0], side, side, dtype=torch.float64).relu() + 0.1
    results = []
    for module in (layer, peer):
        own = x.clone().requires_grad_()
        y = module(own)
        y.square().sum().backward()
        results.append((y, own.grad, module.weight.grad, module.whitening.running_whitening, module.eval()(x)))
    for real, obvious in zip(*results, strict=True):
        torch.testing.assert_close(obvious, real, rtol=1e-5, atol=1e-5 * float(real.detach().abs().max()))


def test_summed_batch_norm_is_batch_norm(monkeypatch):
    monkeypatch.setattr(bench_peers, "world_size", lambda: 2)  # whose other rank has no pixels
    x = torch.randn(4, 6, 5, 5) * 3 + 1
    torch.testing.assert_close(bench_peers.SummedBatchNorm2d(6)(x), nn.BatchNorm2d(6)(x))


def test_folded_batch_norms_change_nothing():
    model = create_backbone("resnet18", num_classes=3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.uniform_(-1, 1)
    x = torch.randn(1, 3, 64, 64)
    expected = model.eval()(x)
    folded = bench_peers.fold_batch_norms(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="no convolution before '0'"):
        bench_peers.fold_batch_norms(nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)))


def test_peak_memory_counts_what_is_kept_for_backward(request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)  # on more the convolution takes a workspace that is larger than all that is kept
    x = torch.zeros(1, 1, 500, 500)  # 1 MB, as each sigmoid keeps

    def peak(depth):
        return memory_step(nn.Sequential(nn.Conv2d(1, 1, 1), *(nn.Sigmoid() for _ in range(depth))), x, Settings())()

    assert peak(12) - peak(4) == pytest.approx(8, abs=0.1)
    assert peak(4) > 6


def test_collectives_are_counted():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with bench_collectives.counted() as seen:
            dist.all_reduce(torch.zeros(1000))
            dist.all_gather([torch.zeros(500)], torch.zeros(500))
        dist.all_reduce(torch.zeros(1000))
    finally:
        dist.destroy_process_group()
    assert seen == {"MB": pytest.approx(0.006), "collectives": 2}


def test_every_part_of_a_step_is_timed():
    model = nn.Sequential(NDConv2d(4, 8, 3, config=WhiteningConfig.paper("imagenet")))
    found = profile(model, torch.randn(2, 4, 16, 16), Settings(), steps=1)
    assert list(found) == [*PARTS, "rest", "backward"]
    one_rank = {"collective"}
    assert all(value is not None and value >= 0 for value in found.values())
    assert all(found[part] > 0 for part in set(found) - one_rank)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def tiny_layers(monkeypatch):
    monkeypatch.setattr(bench_suites, "LAYERS", {"left out": (), "3x3, tiny": (4, 32, 3, 1, 12)})


def _run(*words):
    benchmark.main(["--quick", "--device", "cpu", "--rounds", "3", "--budget", "1", *words])


def test_cases_can_be_chosen_by_name(tiny_layers, tmp_path, capsys):
    with pytest.raises(SystemExit):
        _run("--suite", "layer", "--case", "5x5", "--output", str(tmp_path))
    assert "No case of layer has '5x5' in its name: 3x3, tiny" in capsys.readouterr().err


def test_the_layer_suite_leaves_json_and_figure_and_the_page_is_made_from_them(tiny_layers, tmp_path, capsys):
    records = tmp_path / "results" / "bench"
    _run("--suite", "layer", "--output", str(records))
    record = json.loads((records / "layer_cpu_1t_quick.json").read_text())
    assert record["command"] == "python tools/benchmark.py --quick --device cpu --rounds 3 --budget 1 --suite layer"
    assert {"hardware", "commit", "torch", "load"} <= set(record["machine"])
    (case,) = record["cases"]
    assert (case["name"], case["unit"], case["rounds"], case["skipped"]) == ("3x3, tiny", "s", 3, {})
    assert list(case["peers"]) == ["BN", "GN", "LN", "IterNorm", "ND++ fast", "ND++ paper", "ND++ unfold"]
    assert case["peers"]["BN"]["ratio"] == 1
    assert (records / "layer_cpu_1t_quick.png").read_bytes().startswith(b"\x89PNG")
    assert "layer 1/1: 3x3, tiny: BN" in capsys.readouterr().out

    page = tmp_path / "performance.md"
    shutil.copy(bench_report.PAGE, page)
    missing = bench_report.update_page(bench_suites.SUITES, page, records)
    text = page.read_text()
    paper = case["peers"]["ND++ paper"]
    assert f"| ND++ paper | {paper['ratio']:.3f} (" in text
    assert f"| BN | {case['peers']['BN']['median']:.4g} s |" in text
    assert "![Training step of one convolution with its norm](results/bench/layer_cpu_1t_quick.png)" in text
    assert missing == [*(name for name in bench_suites.SUITES if name != "layer"), "gpu"]
    assert "<!-- bench:detector -->\nnot measured\n<!-- /bench:detector -->" in text
    bench_report.update_page(bench_suites.SUITES, page, records)
    assert page.read_text() == text
    with pytest.raises(ValueError, match="no place for 'nothing'"):
        bench_report.update_page({"nothing": Suite("", lambda settings: [])}, page, records)


def test_skipped_peers_and_parts_stand_on_the_page():
    case = {"name": "8", "skipped": {"SyncBN": "no"}, "notes": {"GN": "odd"}}
    lost = {"name": "9", "skipped": {}, "failed": "it hung"}
    made = bench_tables.remarks({"cases": [case, lost]})
    assert made == ["Not measured, or with a remark:\n\n- 9: it hung\n- GN (8): odd\n- SyncBN (8): no"]
    profile = {"ND++ fast": {"moments": 1.0, "collective": None, "backward": 3.0}}
    table = bench_tables.profile_table({"profile_case": "batch 1", "profile": profile})
    assert table.splitlines()[-1] == "| ND++ fast | 4 | 25% | not measured | 75% |"


def test_exact_values_stand_with_their_ratio():
    peers = {"BN": [2.0], "ND++": [5.0]}
    case = {"name": "8", "unit": "MB", "peers": summarise(peers)}
    made = bench_tables.result_tables({"says": "Peak", "cases": [case]})[0].splitlines()
    assert made[0] == "| Peak: value (ratio) | 8 |"
    assert made[2:] == ["| BN | 2 MB |", "| ND++ | 5 (2.500) |"]


def test_every_suite_has_its_place_on_the_page():
    text = bench_report.PAGE.read_text(encoding="utf-8")
    assert all(
        f"<!-- bench:{name} -->" in text and f"<!-- /bench:{name} -->" in text for name in [*bench_suites.SUITES, "gpu"]
    )


def test_solver_cases_are_of_real_covariances_and_name_what_they_measure():
    settings = Settings(quick=True)
    cases = {case.name: case for case in bench_solver.solver_cases(settings)}
    matrices = bench_solver.covariances(settings)
    assert {size: found.shape[1] for size, found in matrices.items()} == {64: 64, 147: 147, 576: 576}

    def value(case, peer):
        return cases[case].measure(cases[case].peers[peer]())

    assert value("products, d = 64", "quintic, 5") == 17
    assert value("products, d = 64", "newton, 5") == 10
    assert value("largest residual, d = 147", "quintic, 5") <= 0.02
    assert value("median residual, d = 147", "newton, 5") > 0.5
    assert value("relative error of the gradient, d = 64", "ND++") < 1e-5
    assert value("relative error of the gradient, d = 144", "ND++") < 1e-5
    cases["time, d = 64"].peers["eigh"]()()


def test_pictures_come_from_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .jpg or .png files"):
        next(bench_solver.pictures(tmp_path))
    Image.new("RGB", (9, 7), (116, 116, 174)).save(tmp_path / "one.png")
    (found,) = bench_solver.pictures(tmp_path)
    assert found[:, 5, 5].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "bakbone"], "Unknown suite 'bakbone'. Did you mean 'backbone'? Suites: layer, backbone"),
        (["--suite", "layer", "--graph"], "it needs --device cuda"),
        (["--suite", "layer", "--budget", "0"], "--budget more than 0"),
    ],
)
def test_errors_end_in_a_message(words, message, capsys):
    with pytest.raises(SystemExit) as error:
        _run(*words)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_suite_whose_framework_is_missing_is_left_out_by_name(monkeypatch, tmp_path, capsys):
    suite = replace(bench_suites.SUITES["detector"], needs=("no_such_framework", "torch"))
    monkeypatch.setitem(bench_suites.SUITES, "detector", suite)
    _run("--suite", "detector", "--output", str(tmp_path))
    out = capsys.readouterr().out
    assert "detector: left out, no_such_framework not installed: pip install 'ndpp-dense[detectron2]'" in out
    assert list(tmp_path.iterdir()) == []
