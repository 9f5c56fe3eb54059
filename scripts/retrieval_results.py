"""Write results/retrieval.csv, image retrieval by captions: python scripts/retrieval_results.py
coco-val/images
"""

import csv
import sys
from pathlib import Path

from trifocal.cli.console import Console, reporting
from trifocal.evaluation.tasks.retrieval import RANKS, retrieval

OUT = Path(__file__).parent.parent / "results" / "retrieval.csv"


def main() -> None:
    terminal = Console()
    with reporting(terminal) as report:
        found = retrieval(sys.argv[1], lambda fraction: report(fraction, "encoding images"))
    with OUT.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", *(f"recall@{rank}" for rank in RANKS)])
        for line in found:
            writer.writerow([line.name, *(f"{line.at[rank]:.4f}" for rank in RANKS)])
            terminal.print_result(
                f"{line.name:<14}" + "".join(f"  @{rank} {line.at[rank]:6.1%}" for rank in RANKS)
            )


if __name__ == "__main__":
    main()
