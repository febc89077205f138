#!/usr/bin/env python3
"""Acts on what README.md promises.

    check_readme.py facts                  classes of the blocks, entry commands, programs, exit codes, links
    check_readme.py site --programs DIR    blocks for a site: shell syntax, and option names against --help
    check_readme.py run  --programs DIR    blocks to run: executed in a scratch copy of the repository

A fenced block's class is the second word of its fence, behind the language (```bash run):
  entry   the two commands that a newcomer types first; CI runs them by itself
  run     executed, each with its own bash -euo pipefail, one after the other in one scratch copy, where build/release
          is the folder --programs
  site    depends on a cluster: not executed
A block without a class is a fault. What is no command (pictures, citations) is indented by four spaces instead.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

CLASSES = ("entry", "run", "site")
ENTRY_COMMANDS = ["jobs/quickstart.sh", "tests/run.sh"]
BLOCK_SECONDS = 300
PROGRAM = re.compile(r"\bvitrail-[a-z]+\b")


class Block:
    def __init__(self, line, info):
        self.line = line  # of the opening fence
        self.language, *rest = info.split() or [""]
        self.kind = rest[0] if rest else ""
        self.text = ""


def blocks_of(readme):
    """(blocks, faults) of the fenced blocks of a text."""
    blocks, faults, fence = [], [], None
    for number, line in enumerate(readme.splitlines(), 1):
        match = re.match(r"^ {0,3}(`{3,}|~{3,})\s*(.*)$", line)
        if fence is None and match:
            fence = match.group(1)
            blocks.append(Block(number, match.group(2)))
        elif fence is not None and match and match.group(1).startswith(fence) and not match.group(2):
            fence = None
        elif fence is not None:
            blocks[-1].text += line + "\n"
    if fence is not None:
        faults.append(f"README.md:{blocks[-1].line}: this block is never closed")
    for block in blocks:
        if block.kind not in CLASSES:
            faults.append(f"README.md:{block.line}: a block of class '{block.kind}'; known are {', '.join(CLASSES)}")
        elif block.language != "bash":
            faults.append(f"README.md:{block.line}: a block of class {block.kind} in '{block.language}', not bash")
    return blocks, faults


def commands_of(block):
    lines = (line.strip() for line in block.text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def programs_of_tree(root):
    return {path.stem for top in ("apps", "data_tools") for path in (root / top).glob("vitrail-*.cpp")}


def exit_codes_of_source(root):
    enum = re.search(r"enum class ExitCode[^{]*\{(.*?)\};", (root / "src/base/error.hpp").read_text(), re.DOTALL)
    return {int(code) for code in re.findall(r"^\s*\w+\s*=\s*(\d+)", enum.group(1), re.MULTILINE)}


def section_of(readme, title):
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    return match.group(1) if match else ""


def facts(readme, root):
    """Faults of what can be seen without a build."""
    blocks, faults = blocks_of(readme)
    entries = [block for block in blocks if block.kind == "entry"]
    if [command for block in entries for command in commands_of(block)] != ENTRY_COMMANDS:
        faults.append(f"README.md: the blocks of class entry must hold exactly: {', '.join(ENTRY_COMMANDS)}")
    if blocks[: len(entries)] != entries:
        faults.append("README.md: the blocks of class entry must come before all others")
    for command in ENTRY_COMMANDS:
        if not os.access(root / command, os.X_OK):
            faults.append(f"README.md: {command} is no executable file")
    listed = set(re.findall(r"^\|\s*`(vitrail-[a-z]+)`", section_of(readme, "Programs"), re.MULTILINE))
    built = programs_of_tree(root)
    for program in sorted(built - listed):
        faults.append(f"README.md: {program} has no line in the table of section Programs")
    for program in sorted((set(PROGRAM.findall(readme)) | listed) - built):
        faults.append(f"README.md: {program} is named, but neither in apps nor in data_tools")
    rows = re.findall(r"^\|\s*(\d+)\s*\|", section_of(readme, "Exit codes"), re.MULTILINE)
    if sorted(map(int, rows)) != sorted(exit_codes_of_source(root)):
        faults.append(f"README.md: exit codes {rows}, but src/base/error.hpp has {sorted(exit_codes_of_source(root))}")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", readme):
        if "://" not in target and not (root / target).exists():
            faults.append(f"README.md: a link to {target}, which does not exist")
    return faults


def calls_of(text):
    """(program or script of ours, its words) for every call in a shell text."""
    text = text.replace("\\\n", " ")
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation over several lines
            words = line.split()
        for place, word in enumerate(words):
            if PROGRAM.fullmatch(Path(word).name) or re.fullmatch(r"(\./)?(jobs|tests)/\w+\.sh", word):
                call = []
                for argument in words[place + 1 :]:
                    if set(argument) <= set("();<>|&"):
                        break
                    call.append(argument)
                yield word, call


def help_of(command, root):
    """What a command says about itself; None where it fails."""
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    try:
        done = subprocess.run(
            [*command, "--help"],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout + done.stderr if done.returncode == 0 else None


def site(readme, root, programs):
    """Faults of the site blocks' syntax and option names (those of run blocks too: they cost nothing)."""
    blocks, faults = blocks_of(readme)
    helps = {}
    for block in blocks:
        where = f"README.md:{block.line}"
        syntax = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        if syntax.returncode != 0:
            faults.append(f"{where}: {syntax.stderr.strip()}")
            continue
        for word, arguments in calls_of(block.text):
            name = Path(word).name
            path = programs / name if PROGRAM.fullmatch(name) else root / word
            # A first word that is no option is a subcommand, with a help of its own.
            subcommand = arguments[:1] if arguments and re.fullmatch(r"[a-z]+", arguments[0]) else []
            command = (str(path), *subcommand)
            if command not in helps:
                helps[command] = help_of(command, root)
            if helps[command] is None:
                faults.append(f"{where}: {' '.join((name, *subcommand))} --help fails")
                continue
            known = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", helps[command]))
            for argument in arguments:
                option = argument.split("=")[0]
                if re.fullmatch(r"--?[a-zA-Z][\w-]*", option) and option not in known:
                    faults.append(f"{where}: {name} has no option {option}")
    return faults


def copy_of_tree(root, scratch):
    """The files that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        source = root / name
        if source.is_symlink() or source.is_file():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, scratch / name, follow_symlinks=False)


def run(readme, root, programs, seconds=BLOCK_SECONDS):
    """Faults of the blocks that are executed."""
    blocks, faults = blocks_of(readme)
    blocks = [block for block in blocks if block.kind == "run"]
    if not blocks:
        return faults
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    with tempfile.TemporaryDirectory(prefix="vitrail-readme-") as folder:
        scratch = Path(folder)
        copy_of_tree(root, scratch)
        (scratch / "build").mkdir(exist_ok=True)
        (scratch / "build/release").symlink_to(programs.resolve(), target_is_directory=True)
        for block in blocks:
            print(f"--- README.md:{block.line}", flush=True)
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = f"no end within {seconds} s"
            if code != 0:
                faults.append(f"README.md:{block.line}: the block ends with {code}")
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("facts", "site", "run"))
    parser.add_argument("--programs", type=Path, help="folder of the built programs")
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parent.parent.parent
    readme = (root / "README.md").read_text(encoding="utf-8")
    if arguments.what == "facts":
        faults = facts(readme, root)
    elif arguments.programs is None:
        parser.error(f"{arguments.what} needs --programs")
    else:
        faults = {"site": site, "run": run}[arguments.what](readme, root, arguments.programs)
    for fault in faults:
        print(f"FAULT {fault}")
    kinds = [block.kind for block in blocks_of(readme)[0]]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in CLASSES)
    print(f"README.md: {counts} blocks; {arguments.what}: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
