"""`benchmarks/commands.py` times commands in new processes."""

import sys

import pytest

from helpers.scripts import load_script


def test_one_round_of_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("benchmarks/commands.py")
    monkeypatch.setattr(script, "SIZE", (64, 48))
    monkeypatch.setattr(script, "NEEDED", ("encode-compact",))
    monkeypatch.setattr(sys, "argv", ["commands.py", "--rounds", "1", "--commands", "decode-compact"])
    script.main()
    _, _, _, _, anchor, decode = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in decode.strip("|").split("|")]
    assert cells[0] == "`trifocal decode compact.tri -o compact.png`"
    seconds, ratio, processor_seconds, peak = map(float, cells[1:])
    assert 0 < processor_seconds < 60 and seconds > 0 and peak > 30
    assert ratio > 1 and anchor.split("|")[3].strip() == "1.0"


def test_a_command_that_fails_ends_the_benchmark(tmp_path_factory: pytest.TempPathFactory) -> None:
    script = load_script("benchmarks/commands.py")
    line = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(SystemExit, match="This command failed"):
        script.measured(line, str(tmp_path_factory.mktemp("empty")), 1)
