"""What contributors and machines find beside the code: workflows, templates, citation, with the names of today."""

import re
from pathlib import Path

import pytest

from ndpp_dense import __version__

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: extra 'dev'")
ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(workflow):
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_is_there(path):
    said = "\n".join(commands(read(path)))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", said)) <= targets
    files = re.findall(r"\b((?:tools|tests)/[\w/.]+)", said)
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_do_little_and_end(path):
    workflow = read(path)
    assert set(workflow["permissions"]) == {"contents"}
    assert all(job["timeout-minutes"] <= 350 for job in workflow["jobs"].values())
    actions = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)


def test_the_tests_run_on_every_python_and_the_oldest_torch():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    jobs = read(ROOT / ".github" / "workflows" / "checks.yml")["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == re.findall(r"Python :: (3\.\d+)", project)
    oldest = re.search(r'"torch>=([\d.]+)"', project)[1]
    assert f"'torch=={oldest}.*'" in "".join(step.get("run", "") for step in jobs["oldest-torch"]["steps"])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_are_forms(path):
    form = read(path)
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"]
    assert form["description"]
    for part in form["body"]:
        assert part["type"] in ("textarea", "markdown")
        assert part["attributes"].get("label") or part["attributes"].get("value")
    text = path.read_text(encoding="utf-8")
    assert [file for file in re.findall(r"docs/[\w/]+\.md", text) if not (ROOT / file).is_file()] == []


def test_the_citation_is_of_this_version():
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert all({"title", "year", "authors"} <= set(reference) for reference in citation["references"])


def test_the_security_policy_is_there():
    assert "Report a fault in private" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
