"""Work that several threads share."""

import threading
import time

import pytest

from trifocal.utils.threads import COST_PER_THREAD, for_rows


@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_each_row_is_computed_once_and_the_first_by_the_caller(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    found: list[tuple[range, int]] = []
    for_rows(
        lambda part: found.append((range(part.start, part.stop), threading.get_ident())), 10, COST_PER_THREAD
    )
    assert sorted(row for part, _ in found for row in part) == [*range(10)]
    assert len(found) == int(threads)
    assert [part.start for part, thread in found if thread == threading.get_ident()] == [0]


@pytest.mark.parametrize("failing", [0, 5])
def test_an_error_of_any_thread_is_raised_when_all_have_ended(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    ended: list[int] = []

    def compute(part: slice) -> None:
        if part.start == failing:
            raise ZeroDivisionError
        time.sleep(0.05)
        ended.append(part.start)

    with pytest.raises(ZeroDivisionError):
        for_rows(compute, 10, COST_PER_THREAD)
    assert ended == [5 - failing]
