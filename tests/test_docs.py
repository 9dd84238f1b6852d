import re
from collections import defaultdict
from pathlib import Path

import pytest

from vitlab.cli import VERBS, main

ROOT = Path(__file__).parents[1]
FIT = "--config --print_config --seed_everything --ckpt_path --run-dir --dry-run --help"
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
        for name in re.findall(r"configs/[a-z\d_/]+\.yaml", text):
            assert name == "configs/x.yaml" or (ROOT / name).exists(), (page, name)
        for block in re.findall(r"(?s)```sh\n(.*?)```", text):
            for words in re.findall(r"(?m)^\s*vitlab ((?:data |report )?[a-z][\w-]*)", block):
                assert words in VERBS, (page, words)


def test_files_and_folders_named_in_the_map_exist():
    names = {path.name for path in ROOT.glob("vitlab/**/*")}
    for page in (ROOT / "README.md", ROOT / "docs/architecture.md"):
        text = page.read_text()
        paths = re.findall(r"`((?:vitlab|docs|configs|notebooks|benchmarks|tests)/[\w./]*)`", text)
        assert not [path for path in paths if not (ROOT / path).exists() and "/x." not in path], (
            page
        )
        for tree in re.findall(r"(?s)```\n(configs/.*?)```", text):
            files = re.findall(r"\b\w+\.py\b", tree)
            folders = re.findall(r"(?m)^ +(\w+)/ ", tree)
            assert not [name for name in (*files, *folders) if name not in names], page


@pytest.mark.slow
def test_options_named_in_pages_exist(capsys):
    """Options with a hyphenated name; those with dots are keys of the config."""
    used: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for page in PAGES:
        for block in re.findall(r"(?s)```sh\n(.*?)```", page.read_text()):
            lines = re.sub(r"\\\n", " ", block).splitlines()
            for line in lines:
                match = re.match(
                    r"\s*vitlab ((?:data |report )?[a-z][\w-]*)(.*)", line.split("#")[0]
                )
                if match:
                    options = re.findall(r"(?<=\s)--[\w-]+(?=[\s=]|$)", match[2])
                    used[match[1]] |= {(option, page.name) for option in options}
    wrong = []
    for verb, options in used.items():
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        known |= set(re.findall(r"--[\w-]+", FIT)) if verb in ("fit", "plan", "submit") else set()
        wrong += [
            f"{page}: vitlab {verb} {option}" for option, page in options if option not in known
        ]
    assert not wrong, "\n".join(wrong)
