"""Training in several processes, on this one: messages between processes, requests to stop, and their end."""

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from trifocal.errors import Damaged, MissingExtra, NotMeasured, OptionError
from trifocal.training import in_processes, processes
from trifocal.training.stopping import StopRequest

Messages = list[tuple[str, tuple[Any, ...]]]


class Queue:
    """The messages of processes, in this one."""

    def __init__(self, sent: Messages | None = None) -> None:
        self.sent = sent or []

    def put(self, message: tuple[str, tuple[Any, ...]]) -> None:
        self.sent.append(message)

    def get(self) -> tuple[str, tuple[Any, ...]]:
        return self.sent.pop(0)

    def empty(self) -> bool:
        return not self.sent


class Process:
    """A process that ends when it is terminated, or if `stubborn` when it is killed."""

    def __init__(self, alive: bool = True, stubborn: bool = False) -> None:
        self.alive, self.stubborn, self.calls = alive, stubborn, list[str]()

    def is_alive(self) -> bool:
        return self.alive

    def terminate(self) -> None:
        self.calls.append("terminate")
        self.alive = self.stubborn

    def kill(self) -> None:
        self.calls.append("kill")
        self.alive = False

    def join(self, seconds: float | None = None) -> None:
        self.calls.append("join")


class Workers:
    """Processes that run for a number of polls, each of which sends messages, and then end or fail."""

    def __init__(self, queue: Queue, polls: list[Messages], error: Exception | None = None) -> None:
        self.queue, self.polls, self.error = queue, polls, error
        self.processes = [Process(), Process()]

    def join(self, seconds: float) -> bool:
        self.queue.sent += self.polls.pop(0)
        if not self.polls and self.error is not None:
            raise self.error
        return not self.polls


def exited() -> Exception:
    return torch.multiprocessing.ProcessExitedException("gone", error_index=0, error_pid=1, exit_code=1)


def forward(workers: Any, stop: StopRequest) -> tuple[Any, list[tuple[Any, ...]]]:
    """What `forward_messages` returns, and what it reports."""
    said: list[tuple[Any, ...]] = []
    callbacks = {kind: lambda *words: said.append(words) for kind in ("report", "notify")}
    return processes.forward_messages(workers, workers.queue, callbacks, stop), said


def test_messages_are_forwarded_until_all_processes_have_ended() -> None:
    polls: list[Messages] = [
        [("report", (0.5, "half"))],
        [("notify", ("A notice.",)), ("report", (1.0, "all"))],
        [("result", ("weights",))],
    ]
    result, said = forward(Workers(Queue(), polls), StopRequest())
    assert result == "weights" and said == [(0.5, "half"), ("A notice.",), (1.0, "all")]


def test_the_first_error_is_raised_in_place_of_those_that_follow() -> None:
    errors: Messages = [("error", (OptionError("No pictures."),)), ("error", (OSError("lost"),))]
    with pytest.raises(OptionError, match="^No pictures.$"):
        forward(Workers(Queue(), [errors], exited()), StopRequest())
    with pytest.raises(torch.multiprocessing.ProcessExitedException, match="gone"):
        forward(Workers(Queue(), [[]], exited()), StopRequest())


@pytest.mark.parametrize(
    "error",
    [
        Damaged("The file is damaged.", (3, 4)),
        MissingExtra("train", "Training"),
        NotMeasured("NIMA", "no package provides its weights", "name a file"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_arrive_whole_from_another_process(error: Exception) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error) and str(found) == str(error) and vars(found) == vars(error)


def test_a_request_to_stop_is_forwarded_once() -> None:
    stop = StopRequest()
    stop.asked = True
    workers = Workers(Queue(), [[], [], [("result", ("weights",))]])
    assert forward(workers, stop)[0] == "weights"
    assert [process.calls for process in workers.processes] == [["terminate"], ["terminate"]]
    with pytest.raises(KeyboardInterrupt):  # training had not begun
        forward(Workers(Queue(), [[]], exited()), stop)


def test_processes_are_terminated_and_then_killed() -> None:
    workers: Any = Workers(Queue(), [])
    workers.processes = [Process(alive=False), Process(), Process(stubborn=True)]
    processes.terminate(workers)
    assert [process.calls for process in workers.processes] == [
        ["join"],
        ["terminate", "join"],
        ["terminate", "join", "kill", "join"],
    ]


def test_interrupts_are_ignored_while_processes_start() -> None:
    before = signal.getsignal(signal.SIGINT)
    with processes.interrupts_ignored():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
    found: list[Any] = []

    def on_a_thread() -> None:  # where signals cannot be set
        with processes.interrupts_ignored():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=on_a_thread)
    thread.start()
    thread.join()
    assert found == [before]


# ── the body of a process ──


@pytest.fixture
def body(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `run_one` changes in its process is restored."""
    monkeypatch.setattr(processes, "exit_with_parent", lambda: None)
    for name in ("RANK", "LOCAL_RANK", "OMP_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(threads)


def trained(*words: str, report: Any, notify: Any, fail: Exception | None = None) -> list[str | None]:
    """Say what a process was given."""
    report(1.0, *words)
    notify("A notice.")
    if fail is not None:
        raise fail
    return [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS")]


def sent_by(rank: int, **options: object) -> Messages:
    queue: Any = Queue()
    processes.run_one(rank, {"WORLD_SIZE": "2"}, 1, queue, trained, ("a",), options)
    sent: Messages = queue.sent
    return sent


def test_the_first_process_sends_its_result_and_all_send_errors(body: None) -> None:
    said: Messages = [("report", (1.0, "a")), ("notify", ("A notice.",))]
    assert sent_by(0) == [*said, ("result", (["0", "0", "2", "1"],))]
    assert torch.get_num_threads() == 1
    assert sent_by(1) == []
    error = OptionError("No pictures.")
    assert sent_by(0, fail=error) == [*said, ("error", (error,))]
    assert sent_by(1, fail=error) == [("error", (error,))]


def test_a_terminated_process_ends_at_once(body: None, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)

    def terminated(report: Any, notify: Any) -> None:
        handler: Any = signal.getsignal(signal.SIGTERM)
        handler(signal.SIGTERM, None)

    queue: Any = Queue()
    processes.run_one(0, {}, 1, queue, terminated, (), {})
    assert codes == [1] and queue.sent == []


def test_in_processes_divides_the_threads_and_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(Queue(), [[]])
    started: list[Any] = []

    def spawned(target: Any, work: tuple[Any, ...], nprocs: int, join: bool) -> Workers:
        started.append((target, work, nprocs, join, signal.getsignal(signal.SIGINT)))
        queue = work[2]
        queue.put(("report", (0.5, "half")))
        queue.put(("result", ("weights",)))
        return workers

    monkeypatch.setattr(processes, "spawn", spawned)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    said: list[Any] = []
    found: object = in_processes(2, trained, "a", report=lambda *words: said.append(words), fail=None)
    assert found == "weights"
    ((target, work, count, join, interrupts),) = started
    assert (target, count, join, interrupts) == (processes.run_one, 2, False, signal.SIG_IGN)
    assert (work[0]["WORLD_SIZE"], work[1], *work[3:]) == ("2", 2, trained, ("a",), {"fail": None})
    assert said == [(0.5, "half")]
    assert all(process.calls == ["terminate", "join"] for process in workers.processes)
