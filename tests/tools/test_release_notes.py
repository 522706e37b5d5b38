"""The notes of a release are its part of the changelog."""

import pytest
import release_notes

CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-01-02\n\n### Added\n\n- b\n\n## [0.1.0]\n\n- a\n"


def test_the_part_of_the_version_is_printed():
    assert release_notes.notes(CHANGELOG, "0.2.0") == "### Added\n\n- b"
    assert release_notes.notes(CHANGELOG, "0.1.0") == "- a"


@pytest.mark.parametrize("version", ["0.3.0", "Unreleased"])
def test_a_version_without_words_is_refused(version):
    with pytest.raises(SystemExit, match=f"nothing of {version}. It has: Unreleased, 0.2.0, 0.1.0"):
        release_notes.notes(CHANGELOG, version)
