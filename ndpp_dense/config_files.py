"""Find the configs that come with the package by path or by bare name."""

import difflib
from pathlib import Path
from typing import Any

__all__ = ["UniqueKeys", "config_folders", "find_config", "packaged_config", "yaml_fault"]

_SUFFIXES = (".yaml", ".yml", ".py")


def find_config(name_or_path: str | Path) -> Path:
    """Return the config file that a path or a bare name stands for.

    Args:
        name_or_path: an existing file, or the name of a config of this package, with or without suffix and folder
            (``mask_rcnn_ndpp``, ``mask_rcnn_ndpp.yaml``, ``detectron2/mask_rcnn_ndpp.yaml``).

    Returns:
        An existing file. An existing path wins over a config of the same name.

    Raises:
        FileNotFoundError: if there is no such config; names the nearest ones and the folders that were searched.
        ValueError: if a bare name stands for more than one config.
    """
    path = Path(name_or_path)
    return path if path.is_file() else packaged_config(path)


def packaged_config(name: str | Path) -> Path:
    """Return the config of this package with a name, whatever files lie in the current folder.

    Args:
        name: as for :func:`find_config`. It may come from data: no other file than the package's can be reached.

    Raises:
        FileNotFoundError: if there is no such config; names the nearest ones and the folders that were searched.
        ValueError: if a bare name stands for more than one config.
    """
    wanted = Path(name).as_posix()
    # A nearer match wins: the whole relative path, then that without suffix, then the file name, then its stem.
    for key in (Path.as_posix, _without_suffix, _file_name, _stem):
        found = [file for root in config_folders() for file in _configs(root) if key(file.relative_to(root)) == wanted]
        if len(found) > 1:
            choices = ", ".join(str(file) for file in found)
            raise ValueError(f"config {wanted!r} is ambiguous: name one of {choices}")
        if found:
            return found[0]
    raise FileNotFoundError(_not_found(wanted))


def yaml_fault(error: Any, path: str | Path | None = None) -> str:
    """Return what is wrong in a YAML file, with its name and the line.

    Args:
        error: a ``yaml.YAMLError``.
        path: the file; None where the error itself names it.
    """
    mark = getattr(error, "problem_mark", None)
    name = path or getattr(mark, "name", "YAML")
    where = f"{name}, line {mark.line + 1}" if mark is not None else str(name)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    if "could not determine a constructor" not in problem:
        return f"{where}: it is not YAML: {problem}."
    tag = problem.rsplit("'", 2)[-2].replace("tag:yaml.org,2002:", "!!")
    return (
        f"{where}: the tag {tag} is refused: a config is data, and such a tag makes Python objects or runs code. Write "
        "the values themselves."
    )


class UniqueKeys:
    """To be put before a loader of PyYAML: a key that stands twice is refused, of which PyYAML takes the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """As PyYAML does.

        Raises:
            yaml.constructor.ConstructorError: A key stands twice; names its line.
        """
        from yaml.constructor import ConstructorError  # not for commands that read no YAML

        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                problem = f"the key {key.value!r} stands twice in one section, remove one"
                raise ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)  # type: ignore[misc]


def config_folders() -> list[Path]:
    """Return the folders with this package's configs: inside an installed wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    candidates = [package / "configs"]
    # site-packages may hold a stranger's "configs": only a checkout has the project file beside it.
    if (package.parent / "pyproject.toml").is_file():
        candidates.append(package.parent / "configs")
    return [folder for folder in candidates if folder.is_dir()]


def _configs(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.suffix in _SUFFIXES and file.is_file())


def _without_suffix(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _file_name(path: Path) -> str:
    return path.name


def _stem(path: Path) -> str:
    return path.stem


def _not_found(wanted: str) -> str:
    names = {file.name for root in config_folders() for file in _configs(root)}
    near = difflib.get_close_matches(Path(wanted).name, sorted(names), n=3, cutoff=0.5)
    folders = ", ".join(str(folder) for root in config_folders() for folder in (root, *_subfolders(root)))
    hint = f"nearest names: {', '.join(near)}" if near else "no name is near it"
    if Path(wanted).exists() and not Path(wanted).is_dir():
        hint = "there is one, but it is a pipe or a device, not a file"
    return (
        f"no config {wanted!r}; {hint}. Searched {folders or 'nothing: the package has no configs'}; a path works too."
    )


def _subfolders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and folder.name != "__pycache__")
