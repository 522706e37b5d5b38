"""W' and b' of a layer whose statistics are stored, kept for as long as nothing that they were made from changes."""

from __future__ import annotations

import weakref

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from ndpp_dense.ops.eager import needs_gradient, runs_eagerly

__all__ = ["FoldedCache", "may_cache"]

Sources = tuple[Tensor | None, ...]


class FoldedCache:
    """Folded parameters and marks of their sources.

    A change is seen by the tensor being another one, by its memory, layout or data type, and by its version counter.
    Writes that do not raise that are those of optimizers (fused ones), after which trained parameters count as changed,
    and what goes unseen: through ``.data`` or NumPy, and a collective on the tensor itself.

    Args:
        sources: What they were made from.
        weight: W'.
        bias: b'.
    """

    def __init__(self, sources: Sources, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias
        self._marks = tuple(map(_Mark, sources))

    def made_from(self, sources: Sources) -> bool:
        """Whether they would come out the same from these sources."""
        return all(mark.fits(source) for mark, source in zip(self._marks, sources, strict=True))


class _Mark:
    def __init__(self, source: Tensor | None) -> None:
        self.source = None if source is None else weakref.ref(source)
        if source is not None:
            self.alias = source.detach()  # keeps the memory, so that its address is not given to other values
            self.version = _version(source)

    def fits(self, source: Tensor | None) -> bool:
        if self.source is None or source is None:
            return self.source is source
        return (
            self.source() is source
            and _version(source) == self.version
            and source.data_ptr() == self.alias.data_ptr()
            and source.dtype == self.alias.dtype
            and source.stride() == self.alias.stride()
        )


_optimizer_steps = 0


def _count_step(*_: object) -> None:
    global _optimizer_steps  # noqa: PLW0603 - torch has one hook for all optimizers of the process
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_step)


def _version(source: Tensor) -> tuple[int, int]:
    """Fused optimizers write without raising the version counter; only to what takes gradients."""
    return source._version, _optimizer_steps if source.requires_grad else 0


def may_cache(sources: Sources) -> bool:
    """Whether what is made from these tensors may be used again: no gradient goes through it, and changes are seen.

    Tensors made in inference mode have no version counter.
    """
    if not runs_eagerly(*sources) or needs_gradient(*sources):
        return False
    return not any(source is not None and source.is_inference() for source in sources)
