"""A batch run: plan it, code what is not done, and write the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from trifocal.batch.coding import Task, output_key
from trifocal.batch.journal import Journal, Row
from trifocal.batch.manifest import Manifest, Totals, merged
from trifocal.batch.storage import Found
from trifocal.errors import OptionError
from trifocal.utils.files import folded
from trifocal.utils.notices import Notify

__all__ = ["Plan", "Report", "plan", "run"]

LARGEST_SEGMENT = 64  # images
SEGMENTS_PER_WORKER = 16  # so that all workers end at about the same time

Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Plan:
    """A run that was checked.

    Attributes:
        task: what is done with each image.
        found: the inputs.
        pending: the keys of those that are not done, sorted.
        manifest: the manifest to write.
        earlier: whether it exists, and its rows are kept.
        number: of this run in the journal.
    """

    task: Task
    found: Found
    pending: list[str]
    manifest: Manifest
    earlier: bool
    number: int


def plan(
    task: Task, manifest: Manifest, *, recursive: bool = False, resume: bool = False, force: bool = False
) -> Plan:
    """Find the inputs and what is left to do.

    Args:
        resume: skip images that are done in the manifest or in the journal of an earlier run. Images that
            failed are coded again.
        force: start anew, and replace outputs and manifest.

    Raises:
        OptionError: if there are no inputs; if outputs, the manifest or a journal exist and neither `resume`
            nor `force` is given; if two inputs have the same output; if the earlier run had other settings.
        OSError: if a folder cannot be read.
    """
    found = task.source.find(recursive, task.operation.inputs)
    if found.errors and not found.keys:
        raise found.errors[0]
    if not found.keys:
        raise OptionError(f"{task.source} has no suitable files; name a folder of them, or try --recursive.")
    check_clashes(task, found.keys)
    journal = Journal(task.journal)
    exists = manifest.exists()
    if force:
        journal.folder.remove()
        journal, exists = Journal(task.journal), False
    elif not resume and (exists or journal.settings is not None):
        raise OptionError(
            f"{manifest} has an earlier run; continue it with --resume, or replace it with --force."
        )
    if exists:
        check_settings(settings(task), manifest.settings())
    if journal.settings is not None:
        check_settings(settings(task), journal.settings)
    earlier = manifest if exists else None
    done = {row.key for row in merged(earlier, journal) if row.error is None}
    pending = [key for key in found.keys if key not in done]
    if not force:
        check_outputs(task, pending, journal.unfinished())
    return Plan(task, found, pending, manifest, exists, max(journal.segments, default=0) + 1)


def settings(task: Task) -> dict[str, Any]:
    """What must be the same in a run that resumes another."""
    own = {"command": task.operation.name, "source": str(task.source), "keep suffix": task.keep_suffix}
    return {**own, "out": None if task.target is None else str(task.target), **task.operation.settings()}


def check_settings(now: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Raises OptionError with the first setting that differs."""
    for name in now.keys() | earlier.keys():
        if now.get(name) != earlier.get(name):
            raise OptionError(
                f"The earlier run had {name} {earlier.get(name)}, not {now.get(name)}; resume with the same "
                "options, or name another manifest and output."
            )


def check_clashes(task: Task, keys: Sequence[str]) -> None:
    """Raises OptionError if two inputs have the same output, also on a disk that ignores case."""
    if task.target is None:
        return
    taken: dict[str, str] = {}
    for key in keys:
        name = output_key(task, key)
        if task.target.is_local:
            name = folded(name)
        if (other := taken.setdefault(name, key)) != key:
            raise OptionError(
                f"{other} and {key} would both become {output_key(task, key)}; add --keep-suffix if their "
                "suffixes differ, or rename one."
            )


def check_outputs(task: Task, pending: Sequence[str], unfinished: set[str]) -> None:
    """Raises OptionError if an output exists that cannot come from an interrupted run."""
    if task.target is None:
        return
    existing = {*task.target.find().keys}
    taken = [name for key in pending if (name := output_key(task, key)) in existing and key not in unfinished]
    if taken:
        others = f" and {len(taken) - 1} more exist" if len(taken) > 1 else " exists"
        raise OptionError(
            f"{task.target}/{taken[0]}{others} already; use --force to replace, or --out to write elsewhere."
        )


def run(
    plan: Plan,
    report: Report,
    failed: Callable[[Row], None],
    notify: Notify,
    *,
    address: str | None = None,
    jobs: int | None = None,
) -> Totals:
    """Code the pending images, write the manifest, and remove the journal.

    Args:
        report: called with the fraction done, 0..1, and a line of text.
        failed: called with the row of each image that failed.
        notify: called with the number of workers and machines of a cluster.
        address, jobs: as for `trifocal.batch.workers.connected`.

    Returns:
        The totals of the manifest, with those of the runs that it resumes.

    Raises:
        OptionError: as `connected`.
        OSError: if nothing can be written; the journal has what was done.
    """
    journal = Journal(plan.task.journal)
    if plan.pending:
        journal.begin(settings(plan.task))
        code(plan, report, failed, notify, address, jobs)
    report(1.0, "Writing the manifest")
    earlier = plan.manifest if plan.earlier else None
    totals = plan.manifest.write(merged(earlier, Journal(plan.task.journal)), settings(plan.task))
    journal.folder.remove()
    return totals


def code(
    plan: Plan,
    report: Report,
    failed: Callable[[Row], None],
    notify: Notify,
    address: str | None,
    jobs: int | None,
) -> None:
    """Code the pending images with Ray."""
    report(0.0, "Starting Ray")
    from trifocal.batch.workers import connected, run_segments

    total, done, failures = len(plan.pending), 0, 0
    with connected(address, jobs, plan.task.memory) as workers:
        began: float | None = None
        segments = [*divided(plan, workers.count)]
        if address is not None:
            notify(f"{workers.count} workers on {workers.machines} machines.")
        report(0.0, "Loading the networks")
        with closing(run_segments(plan.task, segments, workers)) as progresses:
            for progress in progresses:
                done, failures = done + progress.done, failures + len(progress.failures)
                for row in progress.failures:
                    failed(row)
                if progress.done:
                    began = began or time.monotonic()
                    rate = done / max(time.monotonic() - began, 0.5)
                    report(
                        done / total,
                        f"{done:,} of {total:,} images, {rate:.1f} images/s, {failures:,} failed",
                    )


def divided(plan: Plan, workers: int) -> Iterator[tuple[str, list[str]]]:
    """The segments of a run: a name in the journal, and keys."""
    journal, pending = Journal(plan.task.journal), plan.pending
    size = max(1, min(LARGEST_SEGMENT, len(pending) // (workers * SEGMENTS_PER_WORKER)))
    for number, first in enumerate(range(0, len(pending), size)):
        yield journal.name(plan.number, number), pending[first : first + size]
