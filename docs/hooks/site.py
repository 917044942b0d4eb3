"""What the site has besides the pages of this directory, and what it must not have.

README.md, CONTRIBUTING.md and CHANGELOG.md are pages of it.  A link between files, as the repository shows them,
becomes one between pages.  ``directory/*`` in the navigation stands for all pages there that it does not name.
Commands and the codes of errors are told from the code.  Nothing in the built pages comes from another host.
"""

from __future__ import annotations

import inspect
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from macula_trio._cli.commands import cli
from macula_trio._rpc.errors_map import CALL_ERRORS

logger = logging.getLogger("mkdocs.hooks.site")  # a warning of these fails a strict build

ROOT: Final = Path(__file__).parents[2]
ROOT_PAGES: Final = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
ORIGINS: Final = {page: file for file, page in ROOT_PAGES.items()}
COMMANDS: Final = "<!-- every command -->"
CODES: Final = "<!-- every code -->"

_FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")
_FETCHED: Final = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(?:https?:)?//"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*\shref=["']?(?:https?:)?//"""
    r"""|@import\s+["']?(?:url\()?["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write out the navigation."""
    named = {entry for entry in _entries(config.nav) if not entry.endswith("/*")}
    config.nav = [_written_out(item, Path(config.docs_dir), named) for item in config.nav or []]
    return config


def _entries(item: Any) -> Iterator[str]:
    if isinstance(item, str):
        yield item
    else:
        for child in item.values() if isinstance(item, dict) else item:
            yield from _entries(child)


def _written_out(item: Any, docs: Path, named: set[str]) -> Any:
    if isinstance(item, dict):
        return {title: _written_out(child, docs, named) for title, child in item.items()}
    if isinstance(item, list):
        written = [_written_out(child, docs, named) for child in item]
        return [page for child in written for page in (child if isinstance(child, list) else [child])]
    if not item.endswith("/*"):
        return item
    found = sorted(path.relative_to(docs).as_posix() for path in docs.glob(f"{item}.md"))
    return [page for page in found if page not in named]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie at the root of the repository."""
    for name, uri in ROOT_PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_others: object) -> str:
    """Turn links between files into links between pages; put in the commands."""
    uri = page.file.src_uri
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, "\n".join(_told(cli, click.Context(cli, info_name="macula-trio"))))
    if CODES in markdown:
        markdown = markdown.replace(
            CODES, "\n".join(f"- `{code}`: {CALL_ERRORS[code].meaning}" for code in CALL_ERRORS)
        )
    directory = posixpath.dirname(ORIGINS.get(uri, f"docs/{uri}"))
    pieces, end = [], 0
    for code in _FENCED.finditer(markdown):
        pieces += [_relinked(markdown[end : code.start()], directory, uri), code[0]]
        end = code.end()
    return "".join([*pieces, _relinked(markdown[end:], directory, uri)])


def _relinked(text: str, directory: str, uri: str) -> str:
    """Links of a text whose file is in ``directory`` of the repository, for the page ``uri`` of the site."""

    def relink(link: re.Match[str]) -> str:
        if ":" in link[1]:
            return link[1]
        target = posixpath.normpath(posixpath.join(directory, link[1]))
        page = ROOT_PAGES.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(page, posixpath.dirname(uri) or ".")

    return _LINK.sub(relink, text)


def _told(command: click.Command, context: click.Context) -> Iterator[str]:
    """Markdown about a command and those below it, in click's own words."""
    yield f"## `{context.command_path}`\n"
    yield _paragraphs(command.help or "")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"\n```text\n{usage}\n```\n"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in record[0] and "--version" not in record[0]:
            yield f"`{record[0]}`\n:   {_paragraphs(record[1])}\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _told(below, click.Context(below, info_name=name, parent=context))


def _paragraphs(text: str) -> str:
    """Click's help as Markdown: its brackets are no links, its angles no HTML."""
    return re.sub(r"([\[\]*_<])", r"\\\1", inspect.cleandoc(text).replace("\b\n", ""))


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of everything that a reader's browser would fetch from another host."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in {".html", ".css"}:
            for fetched in _FETCHED.finditer(path.read_text(encoding="utf-8")):
                logger.warning("%s fetches from another host: %s", path.relative_to(config.site_dir), fetched[0])
