"""The documents as the tests read them: blocks of code, and sessions of commands with their shown output."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.(?:py|toml))\n")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMES = {r"broker-app-[0-9a-f]{12}": "CONTAINER", r"@[\w.-]+": "@HOST", r"\d[\d.,]*": "0", r"\s+": " "}
_PROMPT = "$ "
_ELLIPSIS = "…"


@dataclass(frozen=True)
class Block:
    """A block of code between fences.

    Attributes:
        language: What stands behind the first fence.
        text: The code.
        place: Its document and line, for people.
    """

    language: str
    text: str
    place: str

    @property
    def file(self) -> str | None:
        """The file that the block says it is, in its first line."""
        match = _FILE.match(self.text)
        return match.group(1) if match else None


@dataclass(frozen=True)
class Step:
    """A command of a session and the output that is shown below it, which may be none."""

    command: str
    output: tuple[str, ...]

    def is_shown_by(self, lines: list[str]) -> bool:
        """Return whether these lines are the output as shown.

        A line that is only ``…`` stands for any number of lines, and an id for any other.
        """
        pattern = "".join("(?:.*\n)*?" if line == _ELLIPSIS else f"{re.escape(line)}\n" for line in self.output)
        text = "".join(f"{line.rstrip()}\n" for line in lines)
        return re.fullmatch(_ID.sub("ID", pattern.replace("\\-", "-")), _ID.sub("ID", text)) is not None


def blocks(document: Path, *languages: str) -> list[Block]:
    """Return a document's blocks in these languages, in their order."""
    text = document.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match.group(1), match.group(2), f"{document.relative_to(ROOT)}:{line}"))
    return [block for block in found if block.language in languages]


def steps(block: Block) -> list[Step]:
    """Return the commands of a ``console`` block, without the comments behind them."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith(_PROMPT):
            found.append((re.sub(r"\s+# .*", "", line.removeprefix(_PROMPT)), []))
        elif found:
            found[-1][1].append(line.rstrip())
    return [Step(command, tuple(output)) for command, output in found]


def shape(line: str) -> str:
    """Return a line without what differs from run to run: numbers, names of hosts and containers, widths."""
    for pattern, word in _NAMES.items():
        line = re.sub(pattern, word, line)
    return line.strip()
