"""The reference pages say what the code says."""

import pytest

from tests.reference import PAGES, pages


@pytest.mark.parametrize(("name", "text"), pages().items())
def test_a_reference_page_is_up_to_date(name: str, text: str) -> None:
    assert (PAGES / name).read_text("utf-8") == text, "run: python -m tests.reference"


def test_every_reference_page_is_written_by_hand_or_made() -> None:
    made = {
        path.name for path in PAGES.glob("*.md") if "python -m tests.reference" in path.read_text("utf-8")
    }
    assert made == {name for name in pages() if "/" not in name}
