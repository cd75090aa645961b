"""An evaluation as a page: Markdown for a repository, HTML for a browser, each one file without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from agentprm.evaluation.attribution import CAUSES
from agentprm.evaluation.plots import (
    grouped_bars,
    reliability_diagram,
    scatter,
    short_text,
    stacked_bars,
)
from agentprm.evaluation.report import COST_HEAD, cost_cells, percent
from agentprm.evaluation.summary import Evaluation, SetupSummary
from agentprm.text import one_line
from agentprm.trace.text import counted, shown_line

__all__ = [
    "html_page",
    "html_report",
    "html_table",
    "markdown_report",
    "markdown_rows",
    "plain_markdown",
    "sections",
]

Table = tuple[list[str], list[list[str]]]

MEANINGS = {
    "EM": "the answer is a right one, letter by letter after normalisation",
    "F1": "overlap in words with a right answer; a wrong yes or no has none",
    "ACC_R": "the answer contains a right one",
    "JUDGE": "a language model holds the answer right",
    "R@k": "share of the gold passages among the first k that were read",
    "ALL@k": "all gold passages are among the first k",
    "nDCG@10, MAP": "how high the gold passages stand",
    "CITED": "a cited passage holds the answer that was given",
    "CITED_GOLD": "share of the cited passages that are gold ones",
}
BLAME = {
    "query": "no query named what was missing",
    "retrieval": "a query named a missing passage, and it was not found",
    "reading": "all that is needed was read, and the answer is wrong",
    "reward": "a better step lost to one with a higher score",
    "choice": "a better step lost although its score was not lower, or a right finding was not given",
    "unknown": "yes or no without gold passages: nothing can be told",
    "refused": "the question could not be asked",
}
_LONG = 40
_MAIN = ("F1", "EM", "R@5", "nDCG@10")


def markdown_report(evaluation: Evaluation) -> str:
    """The report as Markdown: tables, without the plots."""
    parts = [f"# {plain_markdown(_title(evaluation))}"]
    for heading, note, table in sections(evaluation):
        parts += [f"## {heading}", note, markdown_rows(*table)]
    if evaluation.notes:
        parts += ["## Notes", "\n".join(f"- {plain_markdown(note)}" for note in evaluation.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def html_report(evaluation: Evaluation) -> str:
    """The report as one HTML page with plots and the questions; it loads nothing."""
    plots = _plots(evaluation)
    parts = []
    for heading, note, table in sections(evaluation):
        plot = plots.get(heading, "")
        parts.append(f"<h2>{escape(heading)}</h2><p>{escape(note)}</p>{plot}{html_table(*table)}")
    if evaluation.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in evaluation.notes)
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    parts.append(_questions(evaluation))
    return html_page(_title(evaluation), "".join(parts))


def html_page(title: str, body: str) -> str:
    """A whole page around a body of our own making; its policy forbids every connection."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src '
        "'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table in a box that scrolls sideways; its cells are text, whatever is in them."""
    top = "".join(_cell("th", cell) for cell in head)
    body = "".join("<tr>" + "".join(_cell("td", cell) for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{top}</tr>{body}</table></div>"


def markdown_rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; its cells are text, whatever is in them."""
    rule = ["---", *("--:" for _ in head[1:])]
    lines = [rule if row is rule else [plain_markdown(cell) for cell in row] for row in (head, rule, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def plain_markdown(text: str) -> str:
    r"""A line of Markdown that shows `text`: what could be markup, a link or the end of a cell is escaped.

    Example:
        >>> plain_markdown("a|b <i>")
        'a\\|b &lt;i>'
    """
    return shown_line(text).translate(_MARKUP).replace("](", "]\\(")


# A backslash first of all: one before a bar would itself be escaped, and the bar end the cell.
_MARKUP = {ord(c): "\\" + c for c in "\\`*|"} | {ord("<"): "&lt;", ord("&"): "&amp;"}


def _title(evaluation: Evaluation) -> str:
    setups, questions = counted(len(evaluation.setups), "set-up"), counted(evaluation.questions, "question")
    return f"{evaluation.data}: {setups}, {questions}"


def sections(evaluation: Evaluation) -> list[tuple[str, str, Table]]:
    """Heading, explanation and table of each part that has something to say."""
    setups = evaluation.setups
    metrics = list(dict.fromkeys(name for setup in setups for name in setup.report.metrics))
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in MEANINGS.items())
    found = [
        (
            "Results",
            f"Per cent with 95 % bootstrap intervals. {meanings}.",
            (
                ["set-up", *metrics],
                [
                    [
                        _named(s),
                        *(percent(s.report.metrics[m]) if m in s.report.metrics else "" for m in metrics),
                    ]
                    for s in setups
                ],
            ),
        ),
        ("Cost", "Means for a question.", _costs(setups)),
    ]
    if evaluation.comparisons:
        rows = [
            [
                f"{row.setup} - {row.baseline}",
                row.metric,
                percent(row.result.difference),
                f"{row.result.bootstrap_p:.4f}",
                f"{row.result.randomisation_p:.4f}",
            ]
            for row in evaluation.comparisons
        ]
        head = ["difference", "measure", "points", "p, bootstrap", "p, randomisation"]
        note = "Paired, question by question; p-values are two-sided and not corrected for their number."
        found.append(("Differences", note, (head, rows)))
    if any(setup.by_type for setup in setups):
        metric = _main_metric(metrics)
        kinds = list(dict.fromkeys(kind for setup in setups for kind in setup.by_type))
        rows = [
            [
                kind,
                f"{setups[0].by_type[kind]['n']:.0f}",
                *(_percent(s.by_type[kind].get(metric)) for s in setups),
            ]
            for kind in kinds
        ]
        found.append(
            ("By type of question", f"{metric}, per cent.", (["type", "n", *(s.name for s in setups)], rows))
        )
    if any(setup.failures for setup in setups):
        causes = [cause for cause in (*CAUSES, "refused") if any(cause in s.failures for s in setups)]
        note = "Wrong answers by the first part that, had it worked, could have led to a right one. "
        note += "; ".join(f"{cause}: {BLAME[cause]}" for cause in causes) + "."
        rows = [[s.name, *(str(s.failures.get(cause, 0)) for cause in causes)] for s in setups]
        found.append(("What fails", note, (["set-up", *causes], rows)))
    scored = [(setup.name, setup.calibration) for setup in setups if setup.calibration]
    if scored:
        rows = [
            [name, str(c.items), *("" if v is None else f"{v:.3f}" for v in (c.auc, c.brier, c.ece))]
            for name, c in scored
        ]
        note = "Scores of the candidates that concluded, beside whether they were right."
        found.append(
            ("Calibration of the reward", note, (["set-up", "answers", "AUC", "Brier", "ECE"], rows))
        )
    reasons = list(dict.fromkeys(reason for setup in setups for reason in setup.endings))
    ends = [[s.name, *(str(s.endings.get(reason, 0)) for reason in reasons)] for s in setups]
    found.append(("How the runs ended", "", (["set-up", *reasons], ends)))
    settings = list(dict.fromkeys(key for setup in setups for key in setup.settings))
    if settings:
        made = [[s.name, *(_shown(s.settings.get(key)) for key in settings)] for s in setups]
        found.append(("Settings", "", (["set-up", *settings], made)))
    return found


def _costs(setups: Sequence[SetupSummary]) -> Table:
    rows = [[setup.name, *cost_cells(setup.report)] for setup in setups]
    if not any(setup.cost is not None for setup in setups):
        return ["set-up", *COST_HEAD], rows
    prices = ["" if setup.cost is None else f"{setup.cost:.6f}" for setup in setups]
    priced = [[*row, price] for row, price in zip(rows, prices, strict=True)]
    return ["set-up", *COST_HEAD, "price"], priced


def _plots(evaluation: Evaluation) -> dict[str, str]:
    """Plots by the heading they stand under."""
    setups = evaluation.setups
    metrics = list(dict.fromkeys(name for setup in setups for name in setup.report.metrics))
    plots: dict[str, str] = {}
    if metrics:
        metric = _main_metric(metrics)
        points = {
            s.name: (s.report.tokens_asked + s.report.tokens_read, s.report.metrics[metric])
            for s in setups
            if metric in s.report.metrics
        }
        plots["Cost"] = scatter(points, "tokens of a question, asked and read", f"{metric}, per cent")
        groups = {
            kind: {s.name: s.by_type[kind][metric] for s in setups if metric in s.by_type.get(kind, {})}
            for kind in dict.fromkeys(kind for setup in setups for kind in setup.by_type)
        }
        plots["By type of question"] = grouped_bars(groups, f"{metric}, per cent")
    plots["What fails"] = stacked_bars(
        {
            s.name: {cause: s.failures[cause] for cause in (*CAUSES, "refused") if cause in s.failures}
            for s in setups
        },
        "wrong answers",
    )
    bins = {setup.name: setup.calibration.bins for setup in setups if setup.calibration}
    if any(bins.values()):
        plots["Calibration of the reward"] = reliability_diagram(bins)
    return plots


def _questions(evaluation: Evaluation) -> str:
    """Every question with what was answered, folded."""
    rows = []
    for row in evaluation.rows:
        cells = []
        for run in row["runs"]:
            said = run["error"] or run["prediction"] or "(no answer)"
            right = max((run["scores"].get(key, 0.0) for key in ("EM", "ACC_R", "JUDGE")), default=0.0)
            told = f"{run['cause']} · " if run["cause"] else ""
            cells.append(
                f'<td class="{"good" if right else "bad"}">{escape(short_text(one_line(said), 200))}'
                f"<small>{escape(told)}{run['usage']['prompt_tokens'] + run['usage']['completion_tokens']:,} "
                f"tokens{' · ' + escape(run['trace']) if run['trace'] else ''}</small></td>"
            )
        right_answers = escape(" / ".join(row["answers"]))
        rows.append(
            f"<tr><td>{escape(row['question'])}<small>{right_answers}</small></td>{''.join(cells)}</tr>"
        )
    names = [run["setup"] for run in evaluation.rows[0]["runs"]]
    head = "".join(f"<th>{escape(name)}</th>" for name in ["question", *names])
    return (
        f"<h2>Questions</h2><details><summary>all {len(rows)} with their answers, what failed and the files "
        f"of their traces</summary><div class=wide><table class=text><tr>{head}</tr>{''.join(rows)}"
        "</table></div></details>"
    )


def _cell(tag: str, text: str) -> str:
    """A cell of a table; one with a long text may break it anywhere."""
    return f"<{tag}{' class=long' if len(text) > _LONG else ''}>{escape(text)}</{tag}>"


def _named(setup: SetupSummary) -> str:
    notes = [f"{setup.report.failed} refused"] if setup.report.failed else []
    notes += [f"{setup.runs} runs"] if setup.runs > 1 else []
    return f"{setup.name} ({', '.join(notes)})" if notes else setup.name


def _main_metric(metrics: Sequence[str]) -> str:
    return next((metric for metric in _MAIN if metric in metrics), metrics[0] if metrics else "F1")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return "" if value is None else str(value)


_HUES = ("#3b6fb6", "#d0722d", "#3f8f4f", "#b3403f", "#7d5ba6", "#8a6a55", "#c05a9b", "#7f7f7f")
_STYLE = (
    ":root{color-scheme:light dark;--ink:#222;--paper:#fff;--soft:#ddd;--good:#e5f3e6;--bad:#fbe9e7}"
    "@media(prefers-color-scheme:dark){:root{--ink:#ddd;--paper:#16181c;--soft:#3a3d44;--good:#1d3322;"
    "--bad:#3a2220}}"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0}"
    "main{max-width:1000px;margin:auto;padding:1.5rem}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;margin:.8rem 0}"
    "td,th{border-bottom:1px solid var(--soft);padding:.3rem .6rem;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}"
    "h1,.legend,.long,.text{overflow-wrap:anywhere}.long{white-space:normal;min-width:15rem}"
    ".text td,.text th{text-align:left;white-space:normal;vertical-align:top;min-width:9rem}"
    "small{display:block;opacity:.7}.good{background:var(--good)}.bad{background:var(--bad)}"
    "svg{max-width:100%;height:auto;display:block}svg text{font-size:11px;fill:var(--ink)}"
    "svg .on{fill:#fff}.grid{stroke:var(--soft)}.dash{stroke:var(--ink);stroke-dasharray:4 4;opacity:.5}"
    "polyline{fill:none;stroke-width:2}line{stroke-width:1.5}"
    ".legend span{margin-right:1rem}.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}"
    + "".join(
        f".c{place},.c{place} circle,.c{place} line{{fill:{hue};stroke:{hue};background:{hue}}}"
        f".c{place} text{{stroke:none}}.c{place} polyline{{stroke:{hue}}}rect.c{place}{{stroke:none}}"
        for place, hue in enumerate(_HUES)
    )
)
