import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ndpp_dense.robustness import perceptual
from ndpp_dense.robustness.perceptual import LAYOUTS, open_ratings, split_references


def picture(path, seed, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)


def kadid(root):
    lines = ["dist_img,ref_img,dmos,var"]
    for reference in (1, 2, 3):
        picture(root / "images" / f"I{reference:02}.png", reference)
        for kind in (1, 25):
            for level in (1, 2):
                name = f"I{reference:02}_{kind:02}_{level:02}.png"
                picture(root / "images" / name, 100 * reference + 10 * kind + level)
                lines.append(f"{name},I{reference:02}.png,{5 - level - reference / 10},0.5")
    (root / "dmos.csv").write_text("\n".join(lines) + "\n")


def tid(root):
    lines = []
    for reference in (1, 2, 25):
        # The letters of TID's names are not of one case.
        picture(root / "reference_images" / (f"I{reference:02}.BMP" if reference < 25 else "i25.bmp"), reference)
        for kind in (1, 17):
            for level in (1, 2):
                name = f"i{reference:02}_{kind:02}_{level}.bmp"
                stored = name if level == 1 else name.upper()
                picture(root / "distorted_images" / stored, 100 * reference + 10 * kind + level)
                lines.append(f"{9 - level - reference / 100:.5f} {name}")
    (root / "mos_with_names.txt").write_text("\r\n".join(lines) + "\r\n")


def raid(root):
    lines = ["Reference,Distorted,Response,Response_Scaled"]
    for reference in (1, 2, 3):
        picture(root / "images" / f"img_{reference:02}.png", reference)
        for kind in ("rot", "trans", "scale", "gn"):
            lines.append(f"img_{reference:02}.png,{kind}_img_{reference:02}_level_01.png,0,5.59")
            for level in (2, 3):
                name = f"{kind}_img_{reference:02}_level_{level:02}.png"
                picture(root / "images" / name, 100 * reference + level)
                lines.append(f"img_{reference:02}.png,{name},{level + reference / 10},{6 - level}")
    (root / "responses.csv").write_text("\n".join(lines) + "\n")


MAKERS = {"kadid10k": kadid, "tid2013": tid, "tid2008": tid, "raid": raid}


@pytest.fixture(params=MAKERS)
def made(request, tmp_path):
    root = tmp_path / request.param
    root.mkdir()
    MAKERS[request.param](root)
    return request.param, root


def test_every_layout_has_a_generated_folder():
    assert set(MAKERS) == set(LAYOUTS)


def test_pairs_and_images_are_those_of_the_folder(made):
    layout, root = made
    ratings = open_ratings(layout, root)
    assert ratings.name == layout
    assert len(ratings.pairs) == (24 if layout == "raid" else 12)
    assert len({pair.reference for pair in ratings.pairs}) == 3
    assert {pair.level for pair in ratings.pairs} == {1, 2}
    for pair in ratings.pairs:
        stronger = [other for other in ratings.pairs if (other.reference, other.kind) == (pair.reference, pair.kind)]
        assert max(stronger, key=lambda other: other.difference).level == 2  # larger means more different
        path = ratings.files[pair.distorted]
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
        assert torch.equal(ratings.distorted(pair), pixels)
        assert ratings.reference(pair.reference).shape == (3, 20, 24)
        assert path.name.lower() == pair.distorted.lower()
    split = split_references(ratings, 0.34)
    assert len(split.test) == 1
    assert len(split.train) == 2


def test_kadid_calls_a_quality_dmos(tmp_path):
    kadid(tmp_path)
    pair = next(p for p in open_ratings("kadid10k", tmp_path).pairs if p.distorted == "I02_25_01.png")
    assert (pair.reference, pair.kind, pair.level, pair.difference) == ("I02.png", "type 25", 1, pytest.approx(-3.8))


def test_raid_leaves_the_reference_itself_out(tmp_path):
    raid(tmp_path)
    pairs = open_ratings("raid", tmp_path).pairs
    assert {pair.kind for pair in pairs} == {"rotation", "translation", "scale", "noise"}
    assert not any("level_01" in pair.distorted for pair in pairs)
    assert [p.difference for p in pairs if p.distorted == "gn_img_02_level_03.png"] == [3.2]


def test_a_missing_rating_file_is_named_with_what_there_is(made):
    layout, root = made
    file_name = LAYOUTS[layout][0]
    (root / file_name).rename(root / "notes.txt")
    with pytest.raises(
        FileNotFoundError, match=rf"{layout}: no rating file {file_name} in .*notes\.txt.*another layout"
    ):
        open_ratings(layout, root)
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_ratings(layout, root / "absent")
    with pytest.raises(ValueError, match="'kadid': choose from kadid10k, tid2013"):
        open_ratings("kadid", root)


def test_names_without_an_image_are_counted(made):
    layout, root = made
    ratings = open_ratings(layout, root)
    gone = ratings.files[ratings.pairs[0].distorted]
    gone.unlink()
    with pytest.raises(
        ValueError, match=rf"1 of \d+ images that \S+ names are not below .*{ratings.pairs[0].distorted}"
    ):
        open_ratings(layout, root)
    shutil.rmtree(gone.parent)
    with pytest.raises(ValueError, match=r"\d+ of \d+ images .*, \.\.\."):
        open_ratings(layout, root)


def test_two_images_of_one_name_are_refused(made):
    layout, root = made
    path = next(iter(open_ratings(layout, root).files.values()))
    (root / "again").mkdir()
    shutil.copy(path, root / "again" / path.name)
    with pytest.raises(ValueError, match="two images of one name"):
        open_ratings(layout, root)


@pytest.mark.parametrize(
    ("layout", "text", "said"),
    [
        ("kadid10k", "dist_img,ref_img,score\n", "has the columns dist_img, ref_img, score; needed are"),
        ("kadid10k", "dist_img,ref_img,dmos\n", "holds no ratings"),
        ("kadid10k", "dist_img,ref_img,dmos\nI01_01_01.png,I01.png,57\n", "line 2: score '57' is no number of 1 to 5"),
        ("kadid10k", "dist_img,ref_img,dmos\nI01_01_01.png\n", "line 2: too few columns"),
        ("kadid10k", "dist_img,ref_img,dmos\nx.png,I01.png,3\n", "line 2: 'x.png' is not named as"),
        ("tid2013", "5.1 i01_01_1.bmp extra\n", "line 1: .* is not a score and a name"),
        ("tid2008", "nan i01_01_1.bmp\n", "score 'nan' is no number of 0 to 9"),
        ("raid", "Reference,Distorted,Response\nimg_01.png,rot_img_01_level_02.png,much\n", "score 'much'"),
    ],
)
def test_a_spoilt_rating_file_is_named_with_its_line(tmp_path, layout, text, said):
    (tmp_path / LAYOUTS[layout][0]).write_text(text)
    with pytest.raises(ValueError, match=said):
        open_ratings(layout, tmp_path)


def test_images_of_other_sizes_or_none_are_named(tmp_path):
    kadid(tmp_path)
    ratings = open_ratings("kadid10k", tmp_path)
    picture(ratings.files["I01_01_01.png"], 0, (20, 20))
    with pytest.raises(ValueError, match=r"I01_01_01\.png has 20 x 20 pixels, its reference I01\.png 20 x 24"):
        ratings.distorted(ratings.pairs[0])
    ratings.files["I01_01_01.png"].write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read image .*I01_01_01\.png"):
        ratings.distorted(ratings.pairs[0])


@pytest.mark.parametrize(("former", "name"), perceptual._RENAMED.items())
def test_former_names_warn_and_work(former, name):
    with pytest.warns(DeprecationWarning, match=rf"\.{former} is now .*\.{name};"):
        assert getattr(perceptual, former) is getattr(perceptual, name)
