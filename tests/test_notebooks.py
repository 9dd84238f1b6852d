import base64
import re
from pathlib import Path

import matplotlib.image
import pytest
from notebook_outputs import FOLDER, NOTEBOOKS, executed, read

NAMES = {"first_look", "compare_encoders", "dense_degradation", "dino_in_150_lines"}
DEFINES = {"dino_in_150_lines"}  # shows its own code; the others import, call and plot
LARGEST = 400_000  # bytes of all images of a notebook
BOOKS = {path.stem: read(path) for path in NOTEBOOKS}


def cells(book, kind):
    return [cell for cell in book.cells if cell.cell_type == kind]


def outputs(book):
    return [output for cell in cells(book, "code") for output in cell.outputs]


def images(book):
    found = [each.data for each in outputs(book) if "data" in each and "image/png" in each.data]
    return [base64.b64decode(data["image/png"]) for data in found]


def test_notebooks_state_their_question_and_mark_the_lines_to_change():
    assert set(BOOKS) == NAMES
    for name, book in BOOKS.items():
        code = [cell.source for cell in cells(book, "code")]
        assert re.match(r"# .+\n\n\*.+\?\*", book.cells[0].source), name
        assert any("# yours:" in source for source in code), name
        assert len(code) <= 12, name
        defines = any(re.search(r"\b(def|class|lambda)\b", source) for source in code)
        assert defines == (name in DEFINES), name


def test_links_of_notebooks_lead_somewhere():
    for name, book in BOOKS.items():
        for cell in cells(book, "markdown"):
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", cell.source):
                assert target.startswith("http") or (FOLDER / target).exists(), (name, target)


def test_notebooks_are_kept_with_the_outputs_of_one_run(tmp_path: Path):
    for name, book in BOOKS.items():
        counts = [cell.execution_count for cell in cells(book, "code")]
        assert counts == list(range(1, len(counts) + 1)), name
        assert images(book), name
        for number, image in enumerate(images(book)):
            file = tmp_path / f"{name}_{number}.png"
            file.write_bytes(image)
            assert matplotlib.image.imread(file).std() > 0.05, name  # something is on it
        assert sum(map(len, images(book))) < LARGEST, name


def test_notebooks_contain_nothing_of_the_machine_they_ran_on():
    for path in NOTEBOOKS:
        book = BOOKS[path.stem]
        assert set(book.metadata) == {"kernelspec", "language_info"}
        assert book.metadata["kernelspec"]["name"] == "python3"
        assert all(set(cell.metadata) == set() for cell in book.cells)
        assert not [each for each in outputs(book) if each.output_type == "error"]
        assert not [each for each in outputs(book) if each.get("name") == "stderr"]
        text = re.sub(r'"image/png": "[^"]*"', "", path.read_text())
        for place in (str(FOLDER.parent), "/home/", "/Users/", "/root/", "/tmp", "/var/", ".venv"):
            assert place not in text, (path, place)


def test_dino_in_150_lines_keeps_to_them_and_to_the_encoder():
    source = "\n".join(cell.source for cell in cells(BOOKS["dino_in_150_lines"], "code"))
    lines = [line for line in source.splitlines() if line.strip()]
    assert len(lines) <= 160
    ours = re.findall(r"from (vitlab\S*) import", source)
    assert ours == ["vitlab.data.synthetic", "vitlab.encoders"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # warnings between this process and a kernel
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # independent of the user's settings
    kept, again = BOOKS[path.stem], executed(path)
    assert [each.output_type for each in outputs(again)] == [
        each.output_type for each in outputs(kept)
    ]
    assert len(images(again)) == len(images(kept)) > 0
