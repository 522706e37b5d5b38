"""How frameworks name a backbone's weights, and what tells them apart; each that names them otherwise is a class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ndpp_dense.backbones.cards import CARDS
from ndpp_dense.weights.files import SUFFIXES, WeightFile
from ndpp_dense.weights.match import HEADS

__all__ = ["COUNTERS", "WeightFormat", "cautions", "check_output", "detect_format", "renamed", "unwrapped"]

COUNTERS = "counters"  # entry of a file: counts of batches, for which frozen norms have no place
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # of DDP, torch.compile, and trainers such as Lightning's
_BLOCKS = ("preset", "block_size", "block_size_spatial", "block_size_linear", "shared_blocks")
_CAFFE2 = re.compile(r"conv1_w$|res\d_\d+_branch\d\w_w$")


class WeightFormat:
    """Names of a backbone's weights in a framework, and what its files look like.

    Attributes:
        name: As it is typed.
        title: As it is written in sentences.
        container: Entry of a ``.pth`` that holds the weights; empty where they are the whole file.
        prefixes: What a whole model puts before the backbone's names, the longest first.
        sign: What names begin with by which to know the format; None where another has the same names.
        also: Said where a file is recognised.
        classifier: Whether files hold the classifier.
        suffixes: Of files that the framework reads.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    container: ClassVar[str] = ""
    prefixes: ClassVar[tuple[str, ...]] = ()
    sign: ClassVar[re.Pattern[str] | None] = None
    also: ClassVar[str] = ""
    classifier: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES[:1]

    def renaming(self, names: Iterable[str]) -> Callable[[str], str | None]:
        """What makes names of ``create_backbone`` from the framework's, or None where it has no such name.

        Args:
            names: All names of the backbone in the file, without a prefix.
        """
        raise NotImplementedError(type(self).__name__)

    def target_names(self, names: Iterable[str], model: str) -> dict[str, str]:
        """Names in this format.

        Args:
            names: Names as in ``create_backbone``, without the classifier where the format has none.
            model: Whose weights they are, for messages.

        Returns:
            The format's names by those given.

        Raises:
            ValueError: The format has no place for a name.
        """
        raise NotImplementedError(type(self).__name__)

    def contents(
        self, entries: dict[str, Tensor], counters: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What is written of weights, and further entries beside them.

        Args:
            entries: Weights by the format's names.
            counters: Counts of batches that norms have and the weights lack, by the same names.
        """
        return {**entries, **counters}, {}

    def usage(self, path: str | Path, pattern: str | None, config: str, source: WeightFormat) -> list[str]:
        """How to train from a file that was written: lines of text.

        Args:
            path: The file.
            pattern: Stage pattern of a ResNet that pools; else None.
            config: What stands for the config's name.
            source: Format that the weights came in.
        """
        return []

    def caution(self) -> str:
        """What could go wrong unseen with weights of this framework's own files elsewhere; empty for nothing."""
        return ""

    def backbone_names(self, names: Iterable[str]) -> dict[str, str]:
        """The backbone's weights among those of a model.

        Args:
            names: Names in a file.

        Returns:
            By the file's names, those of ``create_backbone``; a name that has none there stays as it is.

        Raises:
            ValueError: No name is of this format.
        """
        inside = self._inside(list(names))
        rename = self.renaming(inside.values())
        found = {name: rename(short) for name, short in inside.items()}
        if not any(found.values()):
            first = ", ".join(list(inside)[:5])
            raise ValueError(f"None of {len(inside)} names is of {self.name}'s ResNet: {first}, ...")
        return {name: found[name] or short for name, short in inside.items()}

    def _inside(self, names: list[str]) -> dict[str, str]:
        """Names of the backbone's weights, without its prefix."""
        for prefix in self.prefixes:
            inside = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            if inside:
                return inside
        return {name: name for name in names}

    def names_of(self, names: Iterable[str], model: str) -> dict[str, str]:
        """:meth:`target_names`, of a classifier's weights too: its head has no place where the format has none."""
        return self.target_names([name for name in names if self.classifier or not name.startswith(HEADS)], model)

    def usage_of(self, model: str, path: str | Path, source: WeightFormat, whitened: bool = False) -> list[str]:
        """:meth:`usage` of a model's weights.

        Args:
            model: Whose weights they are.
            path: The file.
            source: Format that they came in.
            whitened: Whether they have ND++ statistics.
        """
        pattern = CARDS[model].options.get("pattern") if model in CARDS else None
        pools = pattern if pattern not in (None, "BBBB") else None
        return self.usage(path, pools, "CONFIG_WITH_NDPP" if whitened else "CONFIG", source)


def detect_format(file: WeightFile, formats: Sequence[WeightFormat]) -> tuple[WeightFormat, str]:
    """Recognises the framework by what the file says, or else by its names.

    Args:
        file: The file.
        formats: Those that there are.

    Returns:
        One of them, and the reason in words.

    Raises:
        ValueError: The names are of no known framework.
    """
    stated = next((form for form in formats if form.name == file.facts.get("format")), None)
    if stated is not None:
        return stated, "the file says so"
    names = list(unwrapped(file.entries))
    for form in formats:
        found = next((name for name in names if form.sign is not None and form.sign.match(name)), None)
        if found is not None:
            return form, f"it has {found!r}{form.also}"
    if any(_CAFFE2.match(name) for name in names):
        raise ValueError(
            f"{file.path} has Caffe2's names ({names[0]}, ...), of the first Detectron. Load it into a Detectron2 "
            "model, save that, and convert the result."
        )
    raise ValueError(
        f"{file.path} has names of no known framework: {', '.join(names[:5])}, ... Name it with --from "
        f"({', '.join(form.name for form in formats)}) if it is one of these."
    )


def check_output(path: str | Path, target: WeightFormat, source: str | Path) -> None:
    """Refuses a path that the format cannot be written to, before any work is done.

    Args:
        path: Where to write: ``.pth``, or ``.safetensors`` where the framework reads that.
        target: The format.
        source: The file that is read.

    Raises:
        ValueError: The suffix does not fit, or it is the file that is read.
    """
    path, suffixes = Path(path), target.suffixes
    if path.suffix.lower() not in suffixes:
        found = path.suffix or "file without a suffix"
        raise ValueError(f"{target.name} reads no {found}: write {' or '.join(suffixes)}.")
    if path.resolve() == Path(source).resolve():
        raise ValueError(f"{path} is the file that is read: write to another.")


def unwrapped(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries by names without what DDP, torch.compile and trainers put before them all."""
    for wrapper in _WRAPPERS:
        if entries and all(name.startswith(wrapper) for name in entries):
            return unwrapped({name.removeprefix(wrapper): value for name, value in entries.items()})
    return dict(entries)


def cautions(
    file: WeightFile,
    source: WeightFormat,
    target: WeightFormat,
    whitened: bool,
    settings: Mapping[str, Any] | None = None,
) -> list[str]:
    """What could go wrong with converted weights unseen.

    Args:
        file: The file that was read.
        source: Its format.
        target: Format that was written.
        whitened: Whether the weights have ND++ statistics.
        settings: The ``ndpp`` settings that these were made with, where they are known.

    Returns:
        Lines of text.
    """
    lines = []
    if source.caution() and target is not source and not file.facts:
        lines.append(source.caution())
    if whitened:
        blocks = ", ".join(f"{name}={settings[name]}" for name in _BLOCKS if name in settings) if settings else ""
        made = f" ({blocks})" if blocks else ""
        lines.append(
            f"note: ND++ statistics fit models with the same blocks only{made}: set them in the ndpp settings."
        )
    if whitened and settings and settings.get("rules"):
        lines.append(
            f"note: made with the ndpp rules {settings['rules']} (names as in timm). Give the model rules that do the "
            "same: weights made for another local scale load without an error."
        )
    return lines


def renamed(rename: Callable[[Mapping[str, Any]], Mapping[str, Any]], name: str) -> str | None:
    """What a function that renames a whole state makes of one name; None where it has no place."""
    try:
        return next(iter(rename({name: None})))
    except ValueError:
        return None
