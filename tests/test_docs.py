"""Pages name files, configs, verbs and options that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitlab.cli import VERBS, main

ROOT = Path(__file__).parents[1]
FIT = {"--config", "--print_config", "--seed_everything", "--ckpt_path", "--run-dir", "--dry-run"}
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def commands(page: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield each verb in the shell blocks of a page, and its options without dots."""
    for block in re.findall(r"(?s)```sh\n(.*?)```", page.read_text()):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            words = line.split("#")[0]
            if match := re.match(r"\s*vitlab ((?:data |report )?[a-z][\w-]*)(.*)", words):
                yield match[1], set(re.findall(r"(?<=\s)--[\w-]+(?=[\s=]|$)", match[2]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_configs_and_verbs_of_a_page_exist(page):
    text = page.read_text()
    assert not re.search(r"@[A-Z]{3,}@", text)
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert not [x for x in targets if not x.startswith("http") and not (page.parent / x).exists()]
    names = set(re.findall(r"configs/[a-z\d_/]+\.yaml", text)) - {"configs/x.yaml"}
    assert not [name for name in names if not (ROOT / name).exists()]
    assert not [verb for verb, _ in commands(page) if verb not in VERBS]


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_files_and_folders_named_in_the_map_exist(page):
    text = (ROOT / page).read_text()
    paths = re.findall(r"`((?:vitlab|docs|configs|notebooks|benchmarks|tests)/[\w./]*)`", text)
    assert not [path for path in paths if not (ROOT / path).exists() and "/x." not in path]
    names = {path.name for path in ROOT.glob("vitlab/**/*")}
    for tree in re.findall(r"(?s)```\n(configs/.*?)```", text):
        found = [*re.findall(r"\b\w+\.py\b", tree), *re.findall(r"(?m)^ +(\w+)/ ", tree)]
        assert not [name for name in found if name not in names]


def test_the_demos_table_in_the_readme_is_that_of_its_stored_results():
    stored = json.loads((ROOT / "docs/results/demo.json").read_text())
    text = " ".join((ROOT / "README.md").read_text().split())
    for row in stored["seeds"]["0"]:
        scores = [row[name] for name in ("knn/top1", "linear/top1", "miou/voc2012")]
        cells = " | ".join(f"{score:.1f}" for score in scores)
        assert re.search(rf"\| [\w ]*{row['encoder'].split(',')[0]}[^|]* \| {cells} \|", text)
    assert stored["commit"] in text
    assert stored["time"] in text


@pytest.mark.slow
def test_options_named_in_pages_exist(capsys):
    """Options with a hyphenated name; those with dots are keys of the config."""
    used = {(verb, option) for page in PAGES for verb, found in commands(page) for option in found}
    wrong = []
    for verb in {verb for verb, _ in used}:
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        known |= FIT if verb in ("fit", "plan", "submit") else set()
        wrong += [pair for pair in used if pair[0] == verb and pair[1] not in known]
    assert not wrong
