#!/usr/bin/env python3
"""Checks that the building stands as src/FLOORS plans it.

    tests/check_floors.py [ROOT]

Fails (exit 1) on
  * an include of a room that the including room may not know (upwards or sideways), or of apps, data_tools or tests
    from src,
  * a vendor's header outside the places that its `vendor` line names, or one without a `vendor` line,
  * an include that is found nowhere, or whose name is computed (it could not be checked),
  * a folder of src that is no room, or a room that names a room not declared above it.
Prints, without failing, the sources that have no test file.

Programs and tests (apps, data_tools, tests) may include every room; vendors' headers are checked there too.
"""

import re
import sys
from pathlib import Path

SUFFIXES = {".h", ".hpp", ".hh", ".c", ".cc", ".cpp", ".cu", ".cuh", ".inc"}
OUTSIDE_SRC = ("apps", "data_tools", "tests")

CXX_HEADERS = set(
    """
    algorithm any array atomic barrier bit bitset cassert ccomplex cctype cerrno cfenv cfloat charconv chrono cinttypes
    climits clocale cmath codecvt compare complex concepts condition_variable coroutine csetjmp csignal cstdalign
    cstdarg cstdbool cstddef cstdint cstdio cstdlib cstring ctgmath ctime cuchar cwchar cwctype deque exception
    execution expected filesystem format forward_list fstream functional future generator initializer_list iomanip ios
    iosfwd iostream istream iterator latch limits list locale map mdspan memory memory_resource mutex new numbers
    numeric optional ostream print queue random ranges ratio regex scoped_allocator semaphore set shared_mutex
    source_location span spanstream sstream stack stacktrace stdexcept stdfloat stop_token streambuf string
    string_view strstream syncstream system_error thread tuple type_traits typeindex typeinfo unordered_map
    unordered_set utility valarray variant vector version
    """.split()
)
C_HEADERS = set(
    """
    assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic
    stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype
    """.split()
)
POSIX_HEADERS = set(
    """
    aio arpa/inet cpio dirent dlfcn fcntl fmtmsg fnmatch ftw glob grp iconv langinfo libgen monetary mqueue ndbm
    net/if netdb netinet/in netinet/tcp nl_types poll pthread pwd regex sched search semaphore spawn strings stropts
    sys/ipc sys/mman sys/msg sys/resource sys/select sys/sem sys/shm sys/socket sys/stat sys/statvfs sys/time
    sys/times sys/types sys/uio sys/un sys/utsname sys/wait syslog tar termios ulimit unistd utime utmpx wordexp
    """.split()
)
STANDARD = CXX_HEADERS | {name + ".h" for name in C_HEADERS | POSIX_HEADERS}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include(?:_next)?[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>|([^\s"<][^\n]*))', re.MULTILINE)
BLOCK_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


class Plan:
    """src/FLOORS: which rooms a room may include, and where a vendor's headers may be included."""

    def __init__(self, text):
        self.rooms = {}  # name -> rooms it may include, in the order of the file: lowest first
        self.vendors = []  # (pattern, places)
        self.faults = []
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            kind, _, rest = line.partition(" ")
            name, colon, values = rest.strip().rpartition(":")
            if kind not in ("room", "vendor") or not colon:
                self.faults.append(f"src/FLOORS:{number}: neither comment, 'room NAME: ...' nor 'vendor REGEX: ...'")
            elif kind == "room":
                below = set(values.split())
                for room in sorted(below - set(self.rooms)):
                    self.faults.append(f"src/FLOORS:{number}: room {name} names {room}, not declared above it")
                self.rooms[name] = below & set(self.rooms)
            else:
                self.vendors.append((re.compile(name.strip()), values.split()))

    def height(self, room):
        """The floor of a room: 0 for one that includes no other."""
        return 1 + max((self.height(below) for below in self.rooms[room]), default=-1)


def is_within(path, place):
    return path == place or path.startswith(place + "/")


def includes_of(file):
    """(line, name, kind) of every include; kind is 'quoted', 'angled' or 'computed'. Comments do not count."""
    text = file.read_text(encoding="utf-8", errors="replace")
    text = BLOCK_COMMENT.sub(lambda comment: "\n" * comment.group().count("\n"), text)
    for match in INCLUDE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        for name, kind in zip(match.groups(), ("quoted", "angled", "computed")):
            if name:
                yield line, name.strip(), kind


class Checker:
    def __init__(self, root):
        self.root = Path(root)
        self.plan = Plan((self.root / "src/FLOORS").read_text(encoding="utf-8"))
        self.faults = list(self.plan.faults)
        self.files = 0
        self.includes = 0

    def sources(self, top):
        folder = self.root / top
        return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())

    def target_of(self, file, name):
        """The file of ours, as a path from the root, that an include names; None if it is not ours."""
        for base in (file.parent, self.root / "src", self.root):
            candidate = base / name
            if candidate.is_file():
                try:
                    return candidate.resolve().relative_to(self.root.resolve()).as_posix()
                except ValueError:
                    return None
        return None

    def check(self):
        for folder in sorted(path for path in (self.root / "src").iterdir() if path.is_dir()):
            if folder.name not in self.plan.rooms:
                self.faults.append(f"src/{folder.name}: no room of this name in src/FLOORS")
        for top in ("src",) + OUTSIDE_SRC:
            for file in self.sources(top):
                self.files += 1
                self.check_file(file)
        return self.faults

    def check_file(self, file):
        path = file.relative_to(self.root).as_posix()
        for line, name, kind in includes_of(file):
            self.includes += 1
            fault = self.fault_of(file, path, name, kind)
            if fault:
                self.faults.append(f"{path}:{line}: {fault}")

    def fault_of(self, file, path, name, kind):
        if kind == "computed":
            return f"includes {name}, a computed name (it cannot be checked). Write the file's name"
        target = self.target_of(file, name)
        if target:
            return self.fault_of_own(path, target)
        if kind == "angled" and name in STANDARD:
            return None
        lines = [places for pattern, places in self.plan.vendors if pattern.fullmatch(name)]
        if not lines:
            if kind == "quoted":
                return f'"{name}" is found neither here, nor below src, nor is it a vendor\'s header of src/FLOORS'
            return f"<{name}> is neither standard nor named by a 'vendor' line of src/FLOORS"
        place = path[len("src/") :] if path.startswith("src/") else path
        allowed = [allowed for places in lines for allowed in places]
        if not any(is_within(place, allowed_place) for allowed_place in allowed):
            return f"<{name}> outside its room: only {', '.join(allowed)} may include it"
        return None

    def fault_of_own(self, path, target):
        if not path.startswith("src/"):
            return None
        if not target.startswith("src/"):
            return f"src includes {target}: nothing below src may know {target.split('/')[0]}"
        room, other = path.split("/")[1], target.split("/")[1]
        if room == other or room not in self.plan.rooms or other in self.plan.rooms[room]:
            return None
        if other not in self.plan.rooms:
            return f"includes {target}, which lies in no room"
        way = "up" if self.plan.height(other) > self.plan.height(room) else "sideways"
        may = ", ".join(sorted(self.plan.rooms[room])) or "no other room"
        return f"{room} includes {target}, which goes {way}: {room} may know {may}"

    def untested(self):
        """Sources of src without a test file of their name: tests/<room>/**/(test|ranks)_[<folder>_]<name>.cpp."""
        found = []
        for file in self.sources("src"):
            parts = file.relative_to(self.root / "src").parts
            header_of_source = file.suffix in (".h", ".hpp") and file.with_suffix(".cpp").is_file()
            if len(parts) < 2 or header_of_source:
                continue
            tests = {path.stem for path in (self.root / "tests" / parts[0]).rglob("*.cpp")}
            names = {file.stem, "_".join(parts[1:-1] + (file.stem,))}
            if not any(f"{kind}_{name}" in tests for kind in ("test", "ranks") for name in names):
                found.append("src/" + "/".join(parts))
        return found


def main(arguments):
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print(__doc__, file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    checker = Checker(arguments[0] if arguments else Path(__file__).resolve().parent.parent)
    faults = checker.check()
    untested = checker.untested()
    if untested:
        print(f"sources without a test file of their name ({len(untested)}):")
        for path in untested:
            print(f"  {path}")
    for fault in faults:
        print(f"FAULT {fault}")
    verdict = f"{len(faults)} faults" if faults else "as planned in src/FLOORS"
    print(f"floors: {checker.includes} includes in {checker.files} files: {verdict}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
