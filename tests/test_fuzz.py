"""Damaged files from `fuzzing.py`: each gives an image or a TrifocalError."""

import random

import pytest

from fuzzing import (
    MAX_PIXELS,
    Findings,
    damaged_file,
    decode,
    fuzz,
    read,
    undamaged_containers,
    undamaged_files,
)

MANY = pytest.mark.slow  # `python tests/fuzzing.py` damages any number of files


def no_crash(found: Findings) -> bool:
    """Crashes are shown with their numbers and tracebacks; `python tests/fuzzing.py KIND --first NUMBER
    --number 1` repeats one.
    """
    return not found.crashed and 0.02 < found.accepted / found.files < 0.95


@pytest.mark.parametrize("number", [2_000, pytest.param(1_000_000, marks=MANY)])
def test_damaged_files_are_read_or_refused(number: int) -> None:
    assert no_crash(fuzz(undamaged_containers(), read, range(number)))


@pytest.mark.parametrize("number", [100, pytest.param(5_000, marks=MANY)])
def test_damaged_files_are_decoded_or_refused(number: int) -> None:
    assert no_crash(fuzz(undamaged_files(), decode, range(number)))


def test_undamaged_files_are_accepted() -> None:
    assert all(read(file.to_bytes()) for file in undamaged_containers())
    for file in undamaged_files():
        file.header.check_pixels(MAX_PIXELS)
        assert read(file.to_bytes())


def test_seed_determines_the_damaged_file() -> None:
    files = [[damaged_file(random.Random(n), undamaged_containers()) for n in range(50)] for _ in range(2)]
    assert files[0] == files[1] and len({*files[0]}) > 40


def test_crashes_are_counted() -> None:
    """A fake crash is reported with its seed."""
    files = undamaged_containers()
    third = damaged_file(random.Random(3), files)

    def use(data: bytes) -> bool:
        if data == third:
            raise KeyError
        return len(data) > 100

    found = fuzz(files, use, range(10))
    assert found.crashed == [3] and found.files == 10 and 0 < found.accepted < 10
