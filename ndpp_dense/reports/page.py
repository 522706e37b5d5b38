"""A page of tables and pictures in one HTML file: no script, nothing from a network, text of users escaped."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndpp_dense.atomic_file import replacing
from ndpp_dense.redaction import shown

__all__ = ["Cell", "Page", "Picture", "Section", "Table", "write_page"]

Cell = str | int | float | None
_TEMPLATE = "page.html.jinja"
_OPEN_ROWS = 24  # of a table that is shown without being asked for


@dataclass(frozen=True)
class Table:
    """Rows below a head.

    Attributes:
        caption: What they are.
        head: Names of the columns.
        rows: Text; numbers with one decimal; None and what is not finite is shown as a dash.
        percent: Whether numbers are drawn as bars from 0 to 100 too.
        digits: Decimals of numbers.
        folded: Whether it opens only when asked; long ones do in any case.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    percent: bool = False
    digits: int = 1
    folded: bool | None = None

    @property
    def is_folded(self) -> bool:
        """Whether it opens only when asked."""
        return len(self.rows) > _OPEN_ROWS if self.folded is None else self.folded

    def cells(self) -> list[list[tuple[str, float | None]]]:
        """Text of each cell, and the length of its bar in percent; None for a cell of text."""
        return [[self._cell(cell) for cell in row] for row in self.rows]

    def _cell(self, cell: Cell) -> tuple[str, float | None]:
        if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
            return "–", -1.0
        if isinstance(cell, str):
            return cell, None
        bar = min(max(float(cell), 0.0), 100.0) if self.percent else -1.0
        return (f"{cell:,}" if isinstance(cell, int) else f"{cell:.{self.digits}f}"), bar


@dataclass(frozen=True)
class Picture:
    """A picture that is part of the file.

    Attributes:
        caption: Below it.
        alt: What it shows, in words.
        data: A PNG or JPEG file.
    """

    caption: str
    alt: str
    data: bytes

    @property
    def address(self) -> str:
        """The picture as the address of an ``img``."""
        kind = "jpeg" if self.data.startswith(b"\xff\xd8") else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        title: Heading.
        lines: Paragraphs below it.
        points: A list below those.
        tables: Below those.
        pictures: Below those, two beside each other where there is room.
        small: Four instead of two.
    """

    title: str
    lines: Sequence[str] = ()
    points: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    small: bool = False

    @property
    def anchor(self) -> str:
        """Its name within the page."""
        return "-".join("".join(sign if sign.isalnum() else " " for sign in self.title.lower()).split())


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: Of the page.
        state: A word or two beside it.
        good: Whether that is what one hoped for.
        lead: A sentence below.
        figures: What counts most: name and value.
        sections: Parts, in order.
    """

    title: str
    state: str = ""
    good: bool = True
    lead: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    sections: Sequence[Section] = ()


def write_page(page: Page, out_html: str | os.PathLike[str]) -> None:
    """Writes a page, whole or not at all.

    Args:
        page: Its texts may be of any origin: markup in them is shown, secrets in addresses are left out.
        out_html: File to write; its folder is created if absent.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(_TEMPLATE).render(page=page)
    with replacing(out_html) as path:
        path.write_text(text, encoding="utf-8")


def _finalized(value: Any) -> Any:
    if not isinstance(value, str) or value.startswith("data:image/"):  # millions of signs, of this program
        return value
    return shown(value)
