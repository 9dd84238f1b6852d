import base64
import re
from pathlib import Path

import matplotlib.image
import pytest
from notebook_outputs import FOLDER, NOTEBOOKS, executed, read

ANSWERS = ("first_look", "compare_encoders", "dense_degradation")
LARGEST = 400_000  # bytes of all pictures of a notebook

of_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(book, kind):
    return [cell for cell in book.cells if cell.cell_type == kind]


def outputs(book):
    return [output for cell in cells(book, "code") for output in cell.outputs]


def pictures(book):
    found = [each.data for each in outputs(book) if "data" in each and "image/png" in each.data]
    return [base64.b64decode(data["image/png"]) for data in found]


def test_there_is_a_notebook_for_each_question():
    assert {path.stem for path in NOTEBOOKS} == set(ANSWERS)


@of_each
def test_a_notebook_imports_calls_and_plots_but_defines_nothing(path: Path):
    for cell in cells(read(path), "code"):
        assert not re.search(r"\b(def|class|lambda)\b", cell.source), cell.source


@of_each
def test_a_notebook_says_first_what_it_answers_and_then_which_lines_to_change(path: Path):
    book = read(path)
    assert re.match(r"# .+\n\n\*.+\?\*", book.cells[0].source)
    assert any("# yours:" in cell.source for cell in cells(book, "code"))
    assert len(cells(book, "code")) <= 12


@of_each
def test_links_of_a_notebook_lead_somewhere(path: Path):
    for cell in cells(read(path), "markdown"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", cell.source):
            assert target.startswith("http") or (FOLDER / target).exists(), target


@of_each
def test_a_notebook_is_kept_with_its_outputs_all_from_one_run(path: Path, tmp_path: Path):
    book = read(path)
    counts = [cell.execution_count for cell in cells(book, "code")]
    assert counts == list(range(1, len(counts) + 1))
    assert pictures(book)
    for number, picture in enumerate(pictures(book)):
        file = tmp_path / f"{number}.png"
        file.write_bytes(picture)
        assert matplotlib.image.imread(file).std() > 0.05  # something is on it
    assert sum(map(len, pictures(book))) < LARGEST


@of_each
def test_a_notebook_tells_nothing_of_the_machine_it_ran_on(path: Path):
    book = read(path)
    assert set(book.metadata) == {"kernelspec", "language_info"}
    assert book.metadata["kernelspec"]["name"] == "python3"
    assert all(set(cell.metadata) == set() for cell in book.cells)
    assert not [each for each in outputs(book) if each.output_type == "error"]
    assert not [each for each in outputs(book) if each.get("name") == "stderr"]
    text = re.sub(r'"image/png": "[^"]*"', "", path.read_text())
    for place in (str(FOLDER.parent), "/home/", "/Users/", "/root/", "/tmp", "/var/", ".venv"):
        assert place not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what others warn of between this process and a kernel
@of_each
def test_a_notebook_runs_from_its_first_cell_to_its_last(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # whatever the settings of who runs this
    kept, again = read(path), executed(path)
    assert [each.output_type for each in outputs(again)] == [
        each.output_type for each in outputs(kept)
    ]
    assert len(pictures(again)) == len(pictures(kept)) > 0
