"""A suite's table for the terminal, and in Markdown, CSV, LaTeX and JSON."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from classroomkd.config.suite import Suite
from classroomkd.statistics import SHOWN, Sample, interval_text
from classroomkd.suite.comparison import Compared, Row
from classroomkd.suite.search import SearchTrial
from classroomkd.tasks import result_title

DASH = "–"
HEAD = ("run", "student", "method", "n", "last", "chosen", "vs baseline", "95 %", "active")
AGAINST_HEAD = (
    "run", "against", "n", "difference", "95 % (t)", "95 % (bootstrap)", "p", "p (Holm)",
    f"seeds for {SHOWN}",
)  # fmt: skip
SEARCH_HEAD = ("run", "rung", "epochs", "options", "dev, %", "")

_CAPTION = (
    "test {result}, %: last epoch, and the one chosen on the development split, mean ± standard "
    "deviation over n seeds; differences of the chosen to the baseline's, paired by seed"
)
_AGAINST_CAPTION = (
    "points of the chosen epoch, paired by seed: intervals of Student's t, and of the bootstrap, "
    "which is too narrow for a handful of seeds; p of the paired t-test, and Holm's over all runs "
    f"beside the same reference; seeds with which a difference of {SHOWN} would be seen "
    "(5 %, power 0.8)"
)


def cells(suite: Suite, row: Row) -> tuple[str, ...]:
    """A row as text, in the order of `HEAD`."""
    beside = row.against.get(suite.baseline)
    points, interval = beside.difference.parts() if beside else (None, None)
    active = None if row.active is None else f"{row.active:.2f}"
    given = (row.student, row.method, len(row.seeds), row.last, row.chosen)
    return _texts((row.run, *given, points, interval, active))


def against_cells(row: Row, reference: str, compared: Compared) -> tuple[str, ...]:
    """What is said of a row beside a reference, in the order of `AGAINST_HEAD`."""
    difference = compared.difference
    bootstrap = difference.bootstrap and interval_text(difference.bootstrap)
    p_values = [None if p is None else f"{p:.3g}" for p in (difference.p, compared.p_holm)]
    count = len(difference.values)
    needed = difference.seeds_to_show()
    return _texts((row.run, reference, count, *difference.parts(), bootstrap, *p_values, needed))


def search_cells(trial: SearchTrial) -> tuple[str, ...]:
    """A trial as text, in the order of `SEARCH_HEAD`."""
    dev = None if trial.dev is None else f"{trial.dev:.2f}"
    options = ", ".join(trial.options) or None
    kept = "kept" if trial.kept else ""
    return _texts((trial.run, trial.rung, trial.epochs, options, dev, kept))


def to_table(suite: Suite, rows: Sequence[Row]) -> Table:
    """The table for the terminal, without the student: print it with a rich console."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=_caption(rows))
    table.add_column("run", min_width=8, overflow="fold")
    table.add_column("method", min_width=6, overflow="fold")
    for name, width in zip(HEAD[3:], (1, 5, 5, 8, 9, 6), strict=True):
        table.add_column(name, min_width=width, justify="right", no_wrap=name in ("last", "chosen"))
    for row in rows:
        run, _, *rest = cells(suite, row)
        style = "bold" if row.best else ""
        table.add_row(*(Text(cell, style) for cell in (run, *rest)))
    return table


def to_markdown(suite: Suite, rows: Sequence[Row], trials: Sequence[SearchTrial] = ()) -> str:
    """The table in Markdown, the best in bold; then each comparison, each seed and the search."""

    def marked(row: Row) -> tuple[str, ...]:
        return tuple(
            f"**{cell}**" if row.best and name == "chosen" else cell
            for name, cell in zip(HEAD, cells(suite, row), strict=True)
        )

    seeds = [(row.run, _listed(row.seeds), *map(_values, (row.last, row.chosen))) for row in rows]
    against = [against_cells(row, *item) for row in rows for item in row.against.items()]
    parts = [_markdown(HEAD, map(marked, rows)), _caption(rows) + "\n"]
    if against:
        parts += [_markdown(AGAINST_HEAD, against), _AGAINST_CAPTION + "\n"]
    parts.append(_markdown(("run", "seeds", "last, each seed", "chosen, each seed"), seeds))
    if suite.search is not None:
        parts += [
            f"Search on the development split, for each run {suite.search}\n",
            _markdown(SEARCH_HEAD, map(search_cells, trials)),
        ]
    return "\n".join(parts)


def to_csv(suite: Suite, rows: Sequence[Row]) -> str:
    """A line for each run and reference, numbers in full; a run without reference has one, too."""
    lines = []
    for row in rows:
        own = {
            "suite": suite.name,
            "run": row.run,
            "student": row.student,
            "method": row.method,
            "options": " ".join(row.options),
            "n": len(row.seeds),
            **_numbers("last", row.last),
            **_numbers("chosen", row.chosen),
            **_numbers("dev", row.dev),
            "active": row.active,
        }
        found = [_against_plain(*item) for item in row.against.items()]
        for beside in found or [dict.fromkeys(_AGAINST_KEYS)]:
            ends = {
                f"{key}_{end}": (beside[key] or (None, None))[place]
                for key in ("interval", "bootstrap")
                for place, end in enumerate(("low", "high"))
            }
            kept = {k: v for k, v in beside.items() if k not in ("interval", "bootstrap", "values")}
            lines.append(own | kept | ends)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def to_latex(suite: Suite, rows: Sequence[Row]) -> str:
    """The table as a LaTeX ``tabular`` for the package booktabs, the best result in bold."""
    lines = []
    for row in rows:
        texts = [_escaped(cell) for cell in cells(suite, row)]
        if row.best:
            place = HEAD.index("chosen")
            texts[place] = rf"\textbf{{{texts[place]}}}"
        lines.append(f"{' & '.join(texts)} \\\\\n")
    head = " & ".join(map(_escaped, HEAD))
    return (
        f"% {_caption(rows)}\n\\begin{{tabular}}{{lll{'r' * (len(HEAD) - 3)}}}\n\\toprule\n"
        f"{head} \\\\\n\\midrule\n{''.join(lines)}\\bottomrule\n\\end{{tabular}}\n"
    )


def to_json(
    suite: Suite, rows: Sequence[Row], trials: Sequence[SearchTrial] = ()
) -> dict[str, Any]:
    """The table as plain values."""

    def plain(row: Row) -> dict[str, Any]:
        return {
            "run": row.run,
            "student": row.student,
            "method": row.method,
            "result": row.result,
            "seeds": list(row.seeds),
            "options": list(row.options),
            "last": _sample(row.last),
            "chosen": _sample(row.chosen),
            "dev": _sample(row.dev),
            "active": row.active,
            "best": row.best,
            "against": [_against_plain(*item) for item in row.against.items()],
        }

    return {
        "suite": suite.name,
        "baseline": suite.baseline,
        "runs": [plain(row) for row in rows],
        "search": [vars(trial) | {"options": list(trial.options)} for trial in trials],
    }


def write_tables(
    suite: Suite,
    rows: Sequence[Row],
    trials: Sequence[SearchTrial] = (),
    *,
    markdown: Path | None = None,
    as_csv: Path | None = None,
    latex: Path | None = None,
    as_json: Path | None = None,
) -> None:
    """Write the table to the files that are given."""
    writers: dict[Path | None, Callable[[], str]] = {
        markdown: lambda: to_markdown(suite, rows, trials),
        as_csv: lambda: to_csv(suite, rows),
        latex: lambda: to_latex(suite, rows),
        as_json: lambda: json.dumps(to_json(suite, rows, trials), indent=2) + "\n",
    }
    for path, text in writers.items():
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")


_AGAINST_KEYS = (
    "against", "pairs", "values", "difference", "interval", "bootstrap", "p", "p_holm",
    "seeds_needed",
)  # fmt: skip


def _against_plain(reference: str, compared: Compared) -> dict[str, Any]:
    of = compared.difference
    values = (
        reference, len(of.values), list(of.values), of.mean, of.interval, of.bootstrap, of.p,
        compared.p_holm, of.seeds_to_show(),
    )  # fmt: skip
    return dict(zip(_AGAINST_KEYS, values, strict=True))


def _caption(rows: Sequence[Row]) -> str:
    names = {row.result for row in rows if row.result}
    return _CAPTION.format(result=result_title(names.pop()) if len(names) == 1 else "result")


def _markdown(head: Sequence[str], lines: Any) -> str:
    every = [head, ("---",) * len(head), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in every)


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(DASH if value is None else str(value) for value in values)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values)) or DASH


def _values(sample: Sample) -> str:
    return _listed([f"{value:.2f}" for value in sample.values])


def _sample(sample: Sample) -> dict[str, Any]:
    return {"values": list(sample.values), "mean": sample.mean, "spread": sample.spread}


def _numbers(name: str, sample: Sample) -> Mapping[str, Any]:
    values = " ".join(map(repr, sample.values))
    return {f"{name}_mean": sample.mean, f"{name}_sd": sample.spread, f"{name}_values": values}


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    DASH: "--", "±": r"$\pm$", "−": "$-$",
}  # fmt: skip


def _escaped(text: str) -> str:
    r"""Text as LaTeX reads it.

    Example:
        >>> print(_escaped("ca_mkd: −0.40 ± 0.20 %"))
        ca\_mkd: $-$0.40 $\pm$ 0.20 \%
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)
