from benchmarks import encoder as bench


def test_every_arm_has_a_row_and_what_needs_a_gpu_is_said(monkeypatch):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    here, there = bench.tables(1, "nano", 32, 2)
    assert [*here.columns[0].cells] == ["plain", "entmax15", "specialized", "locality, refined"]
    aims = [*here.columns[3].cells]
    assert aims == ["", "", "<= 1.02", "<= 1.15"]
    assert [*there.columns[1].cells] == ["not measured: no GPU"]
