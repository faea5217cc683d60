"""Plain English: find sentences that read like a translation, in docstrings, comments, messages and Markdown.

``python tests/support/plain_english.py`` prints each one with its place and fails if more than one sentence in a
hundred has a marker, in the product with its documents or in the tests with the benchmarks. A marker is a place to
look: rewrite the sentence, do not dodge the word.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
READ = (("broker_app", "queues", "docs", "README.md", "CHANGELOG.md"), ("tests", "benchmarks"))
MAX_SHARE = 0.01
SHORTEST_WORDS = 3
SHORTEST_MESSAGE_WORDS = 5

MARKERS = {
    "opens with a relative": r"^(What|How|Whether|Who|Whose|Which) (?!.*\?$)",
    "stands": r"\bstands? (in|on|at|with|there|still|once|as|apart)\b|\bstands?\.$",
    "who, free": r"\b(who|whoever) (may|must|asks?|reads?|looks?|waits?|starts?|started|takes?)\b",
    "what, as a noun": r"\b(of|for|to|by|with|leaves?) what (is|was|has|came|comes|it|they|runs?|waits?|fails?)\b",
    "told": r"\b(tells?|told) (the|it|them|whether|what|how|apart)\b|\b(is|are) told\b",
    "archaic": r"(?i)\b(anew|likewise|nobody|somebody|came about|passed over|so many times)\b",
    "cannot be": r"\bcannot be[.,;:)]|\bthat cannot be\b",
}
_PATTERNS = {
    name: re.compile(pattern, re.IGNORECASE if name == "archaic" else 0) for name, pattern in MARKERS.items()
}
_SPLIT = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])|\n\s*\n|\n\s*[-*|] ")


def marked_sentences(roots: tuple[Path, ...]) -> tuple[list[str], int]:
    """Return a line for each marked sentence, and how many sentences were read."""
    found, count = [], 0
    for path in (file for root in roots for file in _files(root)):
        for line, sentence in _sentences(path):
            count += 1
            markers = [name for name, pattern in _PATTERNS.items() if pattern.search(sentence)]
            if markers:
                found.append(f"{path.relative_to(ROOT)}:{line}: [{', '.join(markers)}] {sentence[:120]}")
    return found, count


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    return sorted(path for path in root.rglob("*") if path.suffix in {".py", ".md"} and not path.is_symlink())


def _sentences(path: Path) -> Iterator[tuple[int, str]]:
    source = path.read_text(encoding="utf-8")
    for line, text in _python_texts(source) if path.suffix == ".py" else _paragraphs(source):
        for part in _SPLIT.split(text):
            sentence = " ".join(part.split())
            if sentence.count(" ") >= SHORTEST_WORDS - 1:
                yield line, sentence


def _paragraphs(source: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a Markdown text without its code blocks, each with its line."""
    prose = re.sub(
        r"^```.*?^```$", lambda code: "\n" * code[0].count("\n"), source, flags=re.MULTILINE | re.DOTALL
    )
    for match in re.finditer(r"(?:[^\n]+\n?)+", prose):
        yield prose.count("\n", 0, match.start()) + 1, match[0]


def _python_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield docstrings, messages and comments."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value
        elif isinstance(node, ast.Call):
            yield from _messages(node)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and "noqa" not in token.string and "type: ignore" not in token.string:
            yield token.start[0], token.string.lstrip("# ")


def _messages(call: ast.Call) -> Iterator[tuple[int, str]]:
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
        words = "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "X" for part in parts
        )
        if words.count(" ") >= SHORTEST_MESSAGE_WORDS - 1:
            yield argument.lineno, words


def main() -> int:
    """Print what was found; return 1 if it is too much."""
    return max(_judge(names) for names in READ)


def _judge(names: tuple[str, ...]) -> int:
    found, count = marked_sentences(tuple(ROOT / name for name in names))
    is_too_much = len(found) > MAX_SHARE * count
    out = sys.stderr if is_too_much else sys.stdout
    if is_too_much:
        out.write("\n".join(found) + "\n")
    out.write(f"plain English: {len(found)} of {count} sentences carry a marker in {', '.join(names)}\n")
    return int(is_too_much)


if __name__ == "__main__":
    raise SystemExit(main())
