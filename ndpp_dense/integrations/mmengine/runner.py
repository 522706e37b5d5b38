"""A runner whose model can start as ND++ with the function of trained weights (``model.ndpp.calibrate``)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import islice
from typing import Any

from mmengine.device import get_device
from mmengine.dist import broadcast, get_world_size, is_main_process
from mmengine.logging import print_log
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint
from torch import nn
from tqdm import tqdm

from ndpp_dense.integrations.mmengine.config import read_options
from ndpp_dense.integrations.mmengine.pretrained import entries_below
from ndpp_dense.redaction import redacted
from ndpp_dense.training.prepare import NORM_RULES, note_norm_decisions, prepare_from_trained, refuse_weights, told
from ndpp_dense.training.rng import isolated_rng
from ndpp_dense.weights.match import whitened_layers

__all__ = ["NDPPRunner"]

_SEED = 2_000_003  # of the images on which a model is calibrated


@RUNNERS.register_module()
class NDPPRunner(Runner):
    """MMEngine's runner; a config names it as ``runner_type="NDPPRunner"``.

    Where ``model.ndpp.calibrate`` is set, the model is built as it is without ND++, takes the weights of ``load_from``
    and of every ``init_cfg``, and is converted with the same function, see :func:`ndpp_dense.calibrate_ndpp`. Weights
    of a network that is ND++ already, the checkpoint of a resumed run among them, are not calibrated again.
    """

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Builds the model, and calibrates it where its config asks for it.

        Raises:
            ValueError: There is nothing to start from, or it cannot be calibrated.
        """
        self._calibrated = False
        if not isinstance(model, dict) or model.get("type") != "NDPPModel":
            return super().build_model(model)
        settings: dict[str, Any] = deepcopy(dict(model))
        ndpp = dict(settings.pop("ndpp", None) or {})
        if not read_options(ndpp).calibrate:
            return super().build_model(model)
        held = self._held()
        if held is not None:
            ndpp["rules"] = {**(ndpp.get("rules") or {}), **held}
            built = super().build_model({**settings, "ndpp": ndpp})
            note_norm_decisions(built, held)
            return built
        options = read_options(ndpp)
        plain = MODELS.build({**settings, "type": options.architecture})
        given = self._load(plain)
        weights = [name for name in plain.state_dict() if name.endswith(".weight")]
        untrained = {name.removesuffix(".weight") for name in weights if name not in given}
        if not given:
            raise ValueError(
                "model.ndpp.calibrate (--calibrate) starts from trained weights, and none are named: give --weights "
                "FILE, or a backbone's in model.backbone.init_cfg, or leave it out to train from scratch."
            )
        self._calibrate(plain.to(get_device()), options, untrained)
        return plain

    def _init_model_weights(self) -> None:
        if not self._calibrated:
            super()._init_model_weights()
            return
        for tensor in self.model.state_dict().values():
            broadcast(tensor)

    def _source(self) -> str | None:
        """The checkpoint that will be loaded or resumed."""
        if self._resume and self._load_from is None:
            return find_latest_checkpoint(self.work_dir)
        return self._load_from

    def _held(self) -> Mapping[str, bool] | None:
        """Decisions on norms of weights that are ND++ already (none from older files); None where they are plain."""
        source = self._source()
        if source is None:
            return None
        found = CheckpointLoader.load_checkpoint(source, map_location="cpu")
        if not whitened_layers(found.get("state_dict", found)):
            return None
        if not self._resume:
            print_log(f"{redacted(source)} is of a network with ND++ already: nothing is calibrated.", "current")
        return found.get(NORM_RULES) or {}

    def _load(self, model: Any) -> set[str]:
        """Initialises the plain model and loads what the config names; returns the entries that a file gave."""
        model.init_weights()
        given, state = set(), model.state_dict()
        for name, found in _named_files(model):
            given |= {f"{name}{key}" for key, value in found.items() if _fits(state, f"{name}{key}", value)}
        source = self._source()
        if source is not None:
            found = CheckpointLoader.load_checkpoint(source, map_location="cpu")
            found = {name.removeprefix("module."): value for name, value in found.get("state_dict", found).items()}
            fitting = {name: value for name, value in found.items() if _fits(state, name, value)}
            model.load_state_dict(fitting, strict=False)
            given |= fitting.keys()
            wanted = [name for name in state if not name.endswith(".num_batches_tracked")]
            taken = sum(name in fitting for name in wanted)
            print_log(f"load_from: {taken} of {len(wanted)} weights taken from {redacted(source)}", "current")
            refuse_weights(model, set(state) - fitting.keys(), redacted(source))
            if not fitting:
                raise ValueError(
                    f"load_from: none of the {len(wanted)} weights of the model is in {redacted(source)}. Its names "
                    f"begin with {', '.join(sorted({name.split('.')[0] for name in found})[:5])}. To start only a "
                    "backbone from a file, give model.backbone.init_cfg; ndpp convert makes files that fit."
                )
        return given

    def _calibrate(self, model: Any, options: Any, untrained: set[str]) -> None:
        start = time.perf_counter()
        loader: Any = deepcopy(self._train_dataloader)
        loader.update(num_workers=0, persistent_workers=False, prefetch_factor=None)
        with isolated_rng(_SEED):
            batches = list(islice(self.build_dataloader(loader, seed=_SEED), options.calibrate_batches))
        model.eval()
        # Two passes of one batch prove that the norms can go, one of all takes the statistics.
        with tqdm(total=len(batches) + 2, desc="Calibrating ND++", unit="batch", disable=not is_main_process()) as bar:

            def forward(model: Any, batch: Any) -> Any:
                outputs = model(**model.data_preprocessor(deepcopy(batch), True), mode="loss")
                bar.update(bar.n < bar.total)  # conversion may run the model too
                return outputs

            report = prepare_from_trained(model, options, batches, forward=forward, untrained=untrained)
        model.train()
        self._calibrated = self._has_loaded = True
        print_log(f"ND++ conversion:\n{report}", "current")
        images = sum(len(batch["inputs"]) for batch in batches) * get_world_size()
        print_log(told(report, untrained, images, time.perf_counter() - start), "current")


def _named_files(model: nn.Module) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Prefix of every module whose ``init_cfg`` names a file, and the entries of the file by the module's names."""
    for name, module in model.named_modules():
        init = getattr(module, "init_cfg", None)
        if isinstance(init, dict) and init.get("type") == "Pretrained":
            entries = CheckpointLoader.load_checkpoint(init["checkpoint"], map_location="cpu")
            yield f"{name}." if name else "", entries_below(entries.get("state_dict", entries), init.get("prefix"))


def _fits(state: Mapping[str, Any], name: str, value: Any) -> bool:
    return name in state and getattr(value, "shape", None) == state[name].shape
