import re
from pathlib import Path

from vitlab.cli import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_page_is_finished_and_its_links_lead_somewhere():
    for page in PAGES:
        text = page.read_text()
        assert not re.search(r"@[A-Z]{3,}@", text), page
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("http") or (page.parent / target).exists(), (page, target)


def test_configs_and_verbs_named_in_pages_exist():
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"configs/[\w/]+\.yaml", text):
            assert name == "configs/x.yaml" or (ROOT / name).exists(), (page, name)
        for words in re.findall(r"(?m)^\s*vitlab ((?:data )?[a-z][\w-]*)", text):
            assert words in VERBS, (page, words)


def test_the_readme_names_folders_that_exist():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"`((?:vitlab|docs|configs|notebooks|benchmarks|tests)/[\w./]*)`", text):
        assert (ROOT / name).exists(), name
