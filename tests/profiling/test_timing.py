import torch
from rich.table import Table

from vitlab.profiling.timing import fastest, markdown, page, surroundings


def test_calls_take_turns_after_a_warm_up():
    order: list[str] = []
    ticks: list[None] = []
    times = fastest(
        [lambda: order.append("a"), lambda: order.append("b")], 2, tick=lambda: ticks.append(None)
    )
    assert order == ["a", "b"] * 3
    assert len(times) == 2
    assert len(ticks) == 6


def test_a_table_becomes_markdown():
    table = Table("what", title="title", caption="caption")
    table.add_column("ms", justify="right")
    table.add_row("a|b", "1")
    assert markdown(table) == (
        "**title**\n\n| what | ms |\n| --- | ---: |\n| a\\|b | 1 |\n\ncaption\n"
    )


def test_a_page_says_where_it_was_measured():
    text = page("Benchmarks", [Table("what")])
    for fact in ("command", "commit", "CPU", "GPU", "torch", "date"):
        assert f"- {fact}: " in text
    assert surroundings()["torch"] == torch.__version__
    assert f"{torch.get_num_threads()} threads used" in text
