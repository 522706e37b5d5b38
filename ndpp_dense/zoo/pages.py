"""What is generated from the index: a page for people, and the files that tools of OpenMMLab read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ndpp_dense.atomic_file import replacing
from ndpp_dense.zoo.index import ZooIndex
from ndpp_dense.zoo.rows import Metric, ZooModel

__all__ = ["pages", "write_pages"]

_HEAD = """# Model zoo

Generated from `index.json` by `ndpp zoo publish`; do not edit it. `ndpp zoo info NAME` shows a row whole, `ndpp zoo
verify` checks the files here and evaluates them again where their data are present.

```bash
ndpp infer IMAGE --weights mask_rcnn_ndpp_demo --output out
ndpp train-det --config mask_rcnn_ndpp_demo --weights ndpp://mask_rcnn_ndpp_demo
```

In Python: `from ndpp_dense import load_checkpoint; load_checkpoint("NAME", model)`.
"""
_WEIGHTS = """## Weights

Trained by this project. Files are in half precision with packed statistics. Where a figure has another beside it, it
was evaluated from the file here, and `trained` is what the run reported in full precision.
"""
_RECIPES = """## Recipes

No weights yet: nobody has run these to the end here. The figures are those that the papers published.
"""
_TASKS = {
    "instance segmentation": "Instance Segmentation",
    "object detection": "Object Detection",
    "semantic segmentation": "Semantic Segmentation",
    "classification": "Image Classification",
}


def pages(index: ZooIndex) -> dict[str, str]:
    """Content of the generated files by name."""
    models = [index.models[name] for name in sorted(index.models)]
    return {
        "README.md": _readme(models),
        "metafile.yaml": _metafile(models),
        "model-index.yml": "Import:\n- model_zoo/metafile.yaml\n",
    }


def write_pages(index: ZooIndex) -> None:
    """Writes the generated files beside the index."""
    for name, text in pages(index).items():
        with replacing(index.path.parent / name) as made:
            made.write_text(text, encoding="utf-8")


def _readme(models: list[ZooModel]) -> str:
    parts = [_HEAD]
    for there in (True, False):
        chosen = [model for model in models if bool(model.files) is there]
        if chosen:
            parts += [
                _WEIGHTS if there else _RECIPES,
                _table(_weight_rows(chosen) if there else _recipe_rows(chosen)),
                "",
            ]
            parts += [_card(model) for model in chosen if there]
    return "\n".join(parts).rstrip("\n") + "\n"


def _weight_rows(models: list[ZooModel]) -> Iterable[tuple[str, ...]]:
    yield ("name", "task", "data", "figures", "parameters", "file")
    for model in models:
        file = model.weights
        size = f"{file.size / 1e6:.1f} MB, `{file.sha256[:12]}`" if file else ""
        yield (f"`{model.name}`", model.task, model.data, _figures(model), f"{model.params or 0:.2f} M", size)


def _recipe_rows(models: list[ZooModel]) -> Iterable[tuple[str, ...]]:
    yield ("name", "task", "published", "recipe")
    for model in models:
        yield (f"`{model.name}`", model.task, _figures(model), f"`{model.command}`")


def _figures(model: ZooModel) -> str:
    return "; ".join(_figure(metric) for metric in model.metrics) or "-"


def _figure(metric: Metric) -> str:
    if metric.source == "published":
        return f"{metric.name} {metric.value:g} ({metric.reference})"
    trained = f" (trained: {metric.trained:.2f})" if metric.trained is not None else ""
    return f"{metric.name} {metric.value:.2f}{trained}"


def _card(model: ZooModel) -> str:
    facts = {
        "Trained by": f"`{model.command}`",
        "Commit, seed": f"`{model.commit}`, {model.seed}",
        "Budget": model.budget,
        "Data": model.data,
        "Cost": f"{model.params or 0:.3f} M parameters, {model.gflops or 0:.3f} GFLOPs (multiply-adds) at "
        f"{' x '.join(map(str, model.image_size))}",
        "Licence": model.licence,
        "Note": model.note,
    }
    lines = [f"- {label}: {value}" for label, value in facts.items() if value]
    return "\n".join([f"### {model.name}\n", *lines, ""])


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    head, *rest = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([head, "|---" * (head.count(" | ") + 1) + "|", *rest])


def _metafile(models: list[ZooModel]) -> str:
    import yaml

    entries = [_entry(model) for model in models]
    collection = {
        "Name": "ND++",
        "License": "Apache License 2.0",
        "Metadata": {"Training Data": sorted({model.data.split(",")[0] for model in models})},
        "Paper": {"Title": "ND++ (AAAI 2022); PfLayer (ICLR 2022)"},
        "README": "model_zoo/README.md",
        "Frameworks": ["PyTorch"],
    }
    content = {"Collections": [collection], "Models": entries}
    return "# Generated from index.json by `ndpp zoo publish`; do not edit it.\n" + yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, width=110
    )


def _entry(model: ZooModel) -> dict[str, Any]:
    file = model.weights
    entry: dict[str, Any] = {
        "Name": model.name,
        "In Collection": "ND++",
        "Config": model.config,
        "Metadata": {"Training Data": model.data, "Training Budget": model.budget, "Framework": model.framework},
        "Results": [_result(model, metric) for metric in model.metrics],
    }
    if model.params is not None:
        entry["Metadata"]["Parameters"] = round(model.params * 1e6)
    if model.gflops is not None:
        entry["Metadata"]["FLOPs"] = round(model.gflops * 1e9)
    if file is not None:
        entry["Weights"] = file.urls[0] if file.urls else f"ndpp://{model.name}"
        entry["SHA256"] = file.sha256
    return entry


def _result(model: ZooModel, metric: Metric) -> dict[str, Any]:
    name = metric.name if metric.source == "measured" else f"{metric.name} (published: {metric.reference})"
    return {"Task": _TASKS.get(model.task, model.task), "Dataset": metric.data, "Metrics": {name: metric.value}}
