"""Every image is found once, and what is left out is counted."""

from ndpp_dense.images import find_images


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_at_any_depth_and_what_is_left_out(tmp_path):
    fill(tmp_path, "b.JPG", "a/c.png", "a/._c.png", ".ipynb_checkpoints/d.png", "notes.txt", "x.gif", "y.gif", "README")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = find_images(tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in found.files] == ["a/c.png", "b.JPG"]
    assert found.left_out == (
        "4 that do not end as images do (.gif 2, no suffix 1, .txt 1; first: README, notes.txt, x.gif, ...); "
        "2 hidden (._c.png, .ipynb_checkpoints/); 1 that are no files or links to nothing (gone.png)"
    )


def test_linked_folders_are_entered_once(tmp_path):
    fill(tmp_path, "a/1.png")
    fill(tmp_path.parent / f"{tmp_path.name}_far", "2.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "far").symlink_to(tmp_path.parent / f"{tmp_path.name}_far")
    assert [file.name for file in find_images(tmp_path).files] == ["1.png", "2.png"]
    assert find_images(tmp_path).left_out == ""
