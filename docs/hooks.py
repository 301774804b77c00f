"""What the site makes while it is built: the command line's reference, from its parser; pictures of results."""

import argparse
import re
from pathlib import Path

from mkdocs.structure.files import File

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def on_files(files, config):
    """Adds what scripts made: pictures, and the pages of the evaluations."""
    for path in sorted(RESULTS.iterdir()):
        if path.suffix in (".jpg", ".png"):
            files.append(File.generated(config, f"pictures/{path.name}", abs_src_path=str(path)))
        elif path.suffix == ".html":
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Fills the marker of the command line's page."""
    if page.file.src_uri == "reference/cli.md":
        markdown = markdown.replace("<!-- commands -->", "\n".join(_commands()))
    return markdown


def on_page_content(html: str, page, config, files) -> str:
    """Keeps options in the text whole: browsers break lines after each of their hyphens."""
    whole = lambda code: re.sub(r"--?[a-z][a-z-]*", r'<span class="whole">\g<0></span>', code[0])  # noqa: E731
    return re.sub(r"(?<!<pre>)<code>[^<]*</code>", whole, html)


def on_post_build(config) -> None:
    """Pages that are opened from a folder ask for the search's index as a script; without it their scripts stop."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")


def _commands():
    from tpc_fast.cli.main import _parser

    parser = _parser()
    actions = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in actions.choices.items():
        yield f"## tpc-fast {name}\n"
        yield f"{_sentence(command.description)}\n"
        yield from _usage(command)
        nested = [a for a in command._actions if isinstance(a, argparse._SubParsersAction)]
        for action in nested:
            for inner, sub in action.choices.items():
                yield f"### tpc-fast {name} {inner}\n"
                yield from _usage(sub)


def _usage(command):
    for group in command._action_groups:
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS and "-h" not in a.option_strings]
        actions = [a for a in actions if not isinstance(a, argparse._SubParsersAction)]
        if not actions:
            continue
        yield f"**{_sentence(group.title).rstrip('.')}**\n"
        yield "| what | meaning |"
        yield "|---|---|"
        for action in actions:
            yield f"| {_names(action)} | {_meaning(action)} |"
        yield ""


def _names(action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    names = ", ".join(f"`{option}`" for option in action.option_strings)
    if action.nargs == 0:
        return names
    return names + (f" `{action.metavar}`".replace("|", "` or `") if action.metavar else "")


def _meaning(action) -> str:
    text = (action.help or "").replace("%%", "%").replace("%(default)s", "").replace("|", " or ")
    if action.choices and not action.metavar:
        text = ", ".join(f"`{choice}`" for choice in action.choices) + ": " + text
    silent = action.default is False or action.default in (None, "", (), [], argparse.SUPPRESS)
    shown = not silent and action.option_strings and action.nargs != 0
    return text + (f" (default: `{action.default}`)" if shown and "default:" not in text else "")


def _sentence(text: str | None) -> str:
    text = (text or "").strip()
    return text[:1].upper() + text[1:].rstrip(".") + "."
