"""Tables in Markdown, and figures as a pair of files."""

import json
from pathlib import Path

from contrast_arch.files import replacing


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table; a bar in a cell is escaped."""
    header, *rows = ([cell.replace("|", r"\|") for cell in row] for row in (header, *rows))
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row)} |" for row in rows)]


def fill(page: str, mark: str, lines: list[str]) -> str:
    """Replace the lines between ``<!-- MARK -->`` and ``<!-- end -->`` of a page."""
    begin, end = f"<!-- {mark} -->\n", "<!-- end -->"
    before, _, rest = page.partition(begin)
    return before + begin + "".join(f"{line}\n" for line in lines) + end + rest.partition(end)[2]


def save(target: Path, text: str, data: dict) -> None:
    """Write TARGET.md and TARGET.json."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in ((".md", text), (".json", json.dumps(data, indent=1) + "\n")):
        with replacing(target.with_suffix(suffix)) as temporary:
            temporary.write_text(content)
