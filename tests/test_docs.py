import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_is_finished_and_its_links_lead_somewhere(page: Path):
    text = page.read_text()
    assert not re.search(r"@[A-Z]{3,}@", text)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_configs_named_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"configs/[\w/]+\.yaml", text):
        if name != "configs/x.yaml":  # stands for one of your own
            assert (ROOT / name).exists(), name
