"""What the bench makes of figures: promises kept and missed, tables, and times compared with earlier ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.measure import Cell, Clocks, Window
from bench.micro.compare import slower, times_of, too_slow
from bench.plan import ONE
from bench.report import table
from bench.rounds import Windows
from bench.scene import GATEWAY, NGINX
from bench.verdicts import Verdict, calls

CELL = Cell(ONE, "json", "small", 16)
WINDOW = Window(
    calls_per_second=1000,
    p50_us=100,
    p99_us=200,
    cpu_us=20,
    requests_per_call=1.0,
    target_share=1.0,
    load_share=0.5,
    others=0.0,
    peak_mib=40,
)


@pytest.mark.parametrize(("measured", "word"), [(4.1, "miss"), (4.0, "must"), (2.1, "must"), (2.0, "aim")])
def test_a_ceiling_is_kept_by_what_is_below_it(measured: float, word: str) -> None:
    assert Verdict("CPU", measured, 4, 2).word == word


@pytest.mark.parametrize(("measured", "word"), [(0.24, "miss"), (0.25, "must"), (0.5, "aim")])
def test_a_floor_is_kept_by_what_is_above_it(measured: float, word: str) -> None:
    assert Verdict("calls/s", measured, 0.25, 0.5, at_least=True).word == word


def test_a_ratio_compares_windows_of_the_same_round() -> None:
    windows = Windows()
    for nginx, gateway in ((1000, 500), (100, 50), (1000, 400)):
        windows.of[CELL, NGINX].append(replace(WINDOW, calls_per_second=nginx))
        windows.of[CELL, GATEWAY].append(replace(WINDOW, calls_per_second=gateway))
    assert windows.ratio(CELL, calls) == 0.5


def test_a_promise_measured_while_others_used_the_cores_is_neither_kept_nor_missed() -> None:
    windows = Windows()
    windows.of[CELL, NGINX] = [WINDOW, WINDOW, WINDOW]
    windows.of[CELL, GATEWAY] = [WINDOW, WINDOW, replace(WINDOW, others=0.9)]
    assert not windows.disturbed(CELL)
    windows.of[CELL, NGINX] = [replace(WINDOW, others=0.5), WINDOW, replace(WINDOW, others=0.2)]
    assert windows.disturbed(CELL)
    assert Verdict("CPU", 1, 4, 2, disturbed=True).word == "disturbed"


def test_others_are_whoever_used_a_core_beside_the_bench() -> None:
    used = Clocks(wall=2.0, target=1.0, stub=0.5, wrk=0.5, cores=(1.5, 1.1))
    assert used.others(direct=False) == pytest.approx(0.25)
    assert used.others(direct=True) == pytest.approx(0.75)


def test_a_table_has_one_width_for_each_column() -> None:
    lines = table(["load", "calls/s"], [["small", "1"], ["10k", "20,000"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ----- | ------: |"


def test_times_are_those_of_one_run_of_the_work() -> None:
    entry = {"name": "test_plain[decode_request]", "stats": {"min": 0.0002}, "extra_info": {"per_round": 100}}
    assert times_of({"benchmarks": [entry]}) == {"decode_request": pytest.approx(2.0)}


def test_a_slower_machine_is_not_slower_code() -> None:
    old = {"reference": 10.0, "decode": 1.0, "encode": 1.0, "gone": 1.0}
    new = {"reference": 20.0, "decode": 2.0, "encode": 4.0, "new": 1.0}
    factors = slower(new, old)
    assert factors == {"decode": pytest.approx(1.0), "encode": pytest.approx(2.0)}
    assert too_slow(factors) == ["encode"]
