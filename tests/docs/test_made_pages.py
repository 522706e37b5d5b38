"""What scripts write into pages is what they would write now: reference, front table, table of the pictures."""

import json
import re

import pytest
import reference
from doc_pages import ROOT
from studies import front, whitening


@pytest.mark.detectron2
@pytest.mark.parametrize("page", reference.PAGES)
def test_the_reference_is_that_of_the_code(page):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
    pytest.importorskip("timm", reason="timm is not installed: pip install -e '.[pretrain]'")
    kept = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert kept == reference.PAGES[page](), "run python tools/reference.py"


@pytest.mark.parametrize("page", front.PAGES, ids=lambda page: page.name)
def test_the_front_table_is_that_of_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert front.filled(text) == text, "run python tools/study.py front table"


def test_a_page_without_the_mark_is_refused():
    with pytest.raises(SystemExit, match="0 parts of the page are marked"):
        front.filled("# A page\n")


def test_the_front_table_has_the_figures_of_the_studies():
    table = front.front_table()
    for study in ("nuclei", "camvid"):
        page = (ROOT / "docs" / "results" / f"{study}.md").read_text(encoding="utf-8")
        best = page.split("## Each method at its own best learning rate")[1].split("![")[0]
        for row in best.splitlines()[4:]:
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            if len(cells) > 2 and not cells[0].startswith("-"):
                assert cells[-2].split(" ")[0] in table
                assert cells[-1] in table


def test_the_table_of_the_pictures_is_that_of_the_record():
    text = whitening.PAGE.read_text(encoding="utf-8")
    assert whitening.filled(text, json.loads(whitening.RECORD.read_text())) == text


def test_a_whiter_input_has_a_flatter_spectrum():
    found = json.loads(whitening.RECORD.read_text())
    ratios = [figures["largest over smallest"] for figures in found.values()]
    assert ratios == sorted(ratios, reverse=True)


def test_every_variable_of_the_environment_is_told():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "ndpp_dense").rglob("*.py")]
    assert {word for text in sources for word in re.findall(r"\bNDPP_[A-Z_]+\b", text)} == set(reference.VARIABLES)


OWN = {"architecture", "calibrate", "calibrate_batches"}  # of MMEngine's section alone


def test_every_key_of_the_sections_is_told():
    from ndpp_dense.conversion.options import FIELDS, OPTIONS

    assert set(reference.SECTION_KEYS) - OWN == set(OPTIONS) - set(FIELDS)


@pytest.mark.detectron2
def test_every_key_of_the_node_is_told():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
    from detectron2.config import get_cfg

    from ndpp_dense.conversion.options import FIELDS
    from ndpp_dense.integrations.detectron2 import add_ndpp_config

    model = add_ndpp_config(get_cfg()).MODEL
    assert set(reference.NODE_KEYS) == set(model.NDPP) - {name.upper() for name in FIELDS}
    added = {f"{node}.{key}" for node in set(model) - set(get_cfg().MODEL) - {"NDPP"} for key in model[node]}
    assert set(reference.BACKBONE_KEYS) == added
