"""W' and b' of a layer whose statistics are stored, kept for as long as nothing that they were made from changes."""

from __future__ import annotations

import weakref

from torch import Tensor

from ndpp_dense.ops.eager import needs_gradient, runs_eagerly

Sources = tuple[Tensor | None, ...]


class FoldedCache:
    """Folded parameters and marks of their sources.

    A change is seen by the tensor being another one, by its memory, layout or data type, or by its version counter,
    which every write raises but one through ``.data``.

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
            self.version = source._version

    def fits(self, source: Tensor | None) -> bool:
        if self.source is None or source is None:
            return self.source is source
        return (
            self.source() is source
            and source._version == self.version
            and source.data_ptr() == self.alias.data_ptr()
            and source.dtype == self.alias.dtype
            and source.stride() == self.alias.stride()
        )


def may_cache(sources: Sources) -> bool:
    """Whether what is made from these tensors may be used again: no gradient goes through it, and changes are seen.

    Tensors made in inference mode have no version counter.
    """
    tracked = all(source is None or not source.is_inference() for source in sources)
    return tracked and runs_eagerly(*sources) and not needs_gradient(*sources)
