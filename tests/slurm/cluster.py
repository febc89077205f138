"""A throw-away Slurm, its jobs, and tests that use it side by side.

    test_x.py PROGRAMS      where the programs lie
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
JOBS = HERE.parent.parent / "jobs"
sys.path.insert(0, str(HERE.parent / "system"))

import programs  # noqa: E402  (its folder is known only now)
from programs import MODEL, Programs, options, processes_naming  # noqa: E402

SECONDS_TO_END = 20.0  # of a job that failed or was cancelled: Slurm kills 5 s after TERM
SECONDS_IN_ALL = 240.0  # for anything else; the machine may be busy
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}


class Slurm:
    """A Slurm of virtual nodes n1, n2, ... It ends with stop(), and also when this process dies in any way."""

    def __init__(self, nodes, *words):
        started = subprocess.run(
            [HERE / "start_slurm.sh", "-n", str(nodes), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            text=True, timeout=120, check=True,
        )
        self.folder = Path(started.stdout.splitlines()[-1])
        # Not our child: whoever kills us and our children leaves it.
        self.guard = subprocess.Popen(
            ["setsid", "--fork", HERE / "stop_slurm.sh", self.folder, "--when-stdin-ends"], stdin=subprocess.PIPE
        )
        self.network = re.search(r"network=(\w+)", (self.folder / "settings").read_text()).group(1)
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.folder / "etc/slurm.conf"),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_mpi_yield_when_idle": "1",  # ranks share two cores
            "OMP_WAIT_POLICY": "passive",
        }
        if self.network == "shared":
            self.environment |= {"OMPI_MCA_btl_tcp_if_include": "lo", "OMPI_MCA_oob_tcp_if_include": "lo"}
        self.free_nodes = [f"n{i + 1}" for i in range(nodes)]
        self.changed = threading.Condition()

    def stop(self):
        subprocess.run([HERE / "stop_slurm.sh", self.folder], timeout=120, check=True)
        self.guard.stdin.close()
        self.guard.wait(10)

    def ask(self, *command, check=True):
        """What a command of Slurm prints."""
        done = subprocess.run(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=60, check=False, env=self.environment,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ends with {done.returncode}: {done.stdout}")
        return done.stdout.strip()

    def node(self, verb, name):
        subprocess.run([HERE / "slurm_node.sh", self.folder, verb, name], timeout=60, check=True)


def temporary_folder(parent=None):
    """A new folder that every node sees."""
    folder = Path(tempfile.mkdtemp(prefix="vitrail-slurm-", dir=parent))
    folder.chmod(0o755)
    return folder


class Batch:
    """A submitted job."""

    def __init__(self, slurm, number, log):
        self.slurm = slurm
        self.number = number
        self.log = log

    def facts(self):
        found = {}
        for key, value in re.findall(r"(\w+)=(\S*)", self.slurm.ask("scontrol", "-o", "show", "job", self.number)):
            found.setdefault(key, value)
        return found

    @property
    def state(self):
        return self.facts()["JobState"]

    @property
    def requeues(self):
        return int(self.facts()["Restarts"])

    @property
    def code(self):
        """Of the batch script; when a signal ended it, 128 and its number."""
        code, killed = map(int, self.facts()["ExitCode"].split(":"))
        return code + (128 + killed if killed else 0)

    @property
    def said(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, state, seconds=SECONDS_IN_ALL):
        """Until it is in this state; any other from which there is no way back is a failure."""
        start = time.monotonic()
        while (now := self.state) != state:
            if now in FINAL or time.monotonic() - start > seconds:
                raise AssertionError(
                    f"job {self.number} is {now} after {time.monotonic() - start:.1f} s, not {state}:\n"
                    f"{self.facts()}\n{self.said}"
                )
            time.sleep(0.2)

    def wait_for_requeue(self, count, seconds=SECONDS_IN_ALL):
        """Until it was requeued for the count-th time."""
        start = time.monotonic()
        while self.requeues < count:
            if self.state in FINAL or time.monotonic() - start > seconds:
                raise AssertionError(f"job {self.number} is {self.state} and not requeued:\n{self.said}")
            time.sleep(0.2)

    def cancel(self, *words):
        self.slurm.ask("scancel", *words, self.number)


def wait_until(holds, what, seconds=SECONDS_IN_ALL, pause=0.02):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(pause)


class SlurmTests(Programs):
    """Tests on one Slurm, at the same time: each takes nodes of its own by take_nodes()."""

    nodes = 8
    slurm_options = ()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder.chmod(0o755)
        cls.slurm = Slurm(cls.nodes, *cls.slurm_options)
        cls.addClassCleanup(cls.slurm.stop)
        cls.counting = threading.Lock()

    def new_run(self):
        with self.counting:
            return super().new_run()

    def take_nodes(self, count):
        """Names of nodes that are this test's until it ends."""
        slurm = self.slurm
        with slurm.changed:
            slurm.changed.wait_for(lambda: len(slurm.free_nodes) >= count)
            taken, slurm.free_nodes = slurm.free_nodes[:count], slurm.free_nodes[count:]

        def give_back():
            with slurm.changed:
                slurm.free_nodes += taken
                slurm.changed.notify_all()

        self.addCleanup(give_back)
        return taken

    def submit(self, script, *arguments, nodes, ranks=None, words=(), environment=None, bin=None):
        """A job script of jobs/ on these nodes, with so many ranks in all (default: one a node)."""
        ranks = ranks or len(nodes)
        log = self.folder / f"job-{time.monotonic_ns()}.out"
        spread = ["--nodes", len(nodes), "--ntasks-per-node", -(-ranks // len(nodes)), "--ntasks", ranks]
        command = ["sbatch", "--parsable", "-w", ",".join(nodes), "-o", log, *spread, *words, JOBS / script, *arguments]
        done = subprocess.run(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=60,
            check=True, cwd=self.folder,
            env={**self.slurm.environment, "VITRAIL_BIN": str(bin or programs.programs), **(environment or {})},
        )
        batch = Batch(self.slurm, done.stdout.strip(), log)
        self.addCleanup(batch.cancel)
        return batch

    def stand_in(self, name, text):
        """A folder with a program that is not ours."""
        folder = temporary_folder(self.folder)
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
        return folder


class Trainings(SlurmTests):
    """Trainings by jobs/pretrain.sbatch, and one that nothing disturbs, without Slurm."""

    steps = 1500  # of some milliseconds
    save_every = 50

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.straight = cls.folder / "straight"
        undisturbed = cls("new_run")
        undisturbed.job(0, "vitrail-train", *undisturbed.arguments(cls.straight, 1, save_every=0))

    def arguments(self, run, ranks, **settings):
        model = {name.replace("-", "_"): value for name, value in MODEL.items()}
        own = {"batch": 32, "steps": self.steps, "save_every": self.save_every, "digest": True, "run_dir": run}
        own |= {"data": self.data / "train", "expert_parallel": ranks}
        return options(**{**model, **own, **settings})

    def pretrain(self, run, nodes, *, ranks=None, words=(), environment=None, **settings):
        return self.submit(
            "pretrain.sbatch", *self.arguments(run, ranks or len(nodes), **settings), nodes=nodes, ranks=ranks,
            words=words, environment=environment,
        )

    def step_of(self, run):
        return self.latest_step(run) if (run / "checkpoints/latest").exists() else 0

    def wait_for_step(self, run, job, step=1):
        wait_until(lambda: self.step_of(run) >= step, lambda: f"step {step} of {run}: {job.said}")
        self.assertLess(self.step_of(run), self.steps, "it was looked at too late")

    def ranks_of(self, run):
        return [pid for pid, name in processes_naming(str(run)).items() if name == "vitrail-train"]

    def expect_undisturbed(self, run, job):
        self.assertEqual(self.summary(run)["digest"], self.summary(self.straight)["digest"], job.said)
        self.assertEqual(self.metrics(run), self.metrics(self.straight))

    def expect_all_of_it_gone(self, run):
        wait_until(lambda: not processes_naming(str(run)), lambda: processes_naming(str(run)), 10)

    def preempt(self, nodes, seconds):
        """A job that is worth more takes these nodes for so long."""
        command = ["sbatch", "--parsable", "-p", "high", "-w", ",".join(nodes), "--exclusive", "-o", "/dev/null"]
        job = Batch(self.slurm, self.slurm.ask(*command, "--wrap", f"sleep {seconds}"), Path("/dev/null"))
        self.addCleanup(job.cancel)
        return job


def state_of(pid):
    """(letter of a process's state, bits of signals that wait for it); a process that has ended is X."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "X", 0
    state, pending = (re.search(rf"^{key}:\s*(\w+)", status, re.MULTILINE).group(1) for key in ("State", "ShdPnd"))
    return state, int(pending, 16)


def freeze(pids):
    """The ranks' time stops, that of Slurm does not: what takes Slurm seconds may happen between any two steps."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(state_of(pid)[0] == "T" for pid in pids), f"{pids} are frozen")
    return pids


def thaw(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def thaw_with_signal(pids, number=signal.SIGUSR1):
    """Lets them go on when a signal is waiting for each. Slurm may do so itself: it sends CONT where it pre-empts."""

    def is_frozen_without(pid):
        state, pending = state_of(pid)
        return state == "T" and not pending >> (number - 1) & 1

    try:
        wait_until(lambda: not any(map(is_frozen_without, pids)), f"{number.name} reaches {pids}", 90)
    finally:
        thaw(pids)


class SideBySide(unittest.TestSuite):
    """Runs all tests of a class in threads of their own, between one setUpClass and its clean-ups."""

    def run(self, result, debug=False):
        tests = list(self)
        kind = type(tests[0])
        try:
            kind.setUpClass()
            with ThreadPoolExecutor(len(tests)) as pool:
                list(pool.map(lambda test: test.run(result), tests))
        except Exception:  # of setUpClass: the first test says so
            result.addError(tests[0], sys.exc_info())
        finally:
            kind.tearDownClass()
            kind.doClassCleanups()
        return result


class AllAtOnce(unittest.TestSuite):
    """Runs suites in threads: each class has a Slurm of its own. With a shared network there is one at a time."""

    def run(self, result, debug=False):
        suites = list(self)
        can = subprocess.run([HERE / "start_slurm.sh", "--can"], stdout=subprocess.PIPE, text=True, check=True).stdout
        with ThreadPoolExecutor(1 if can.strip() == "shared" else len(suites)) as pool:
            list(pool.map(lambda suite: suite.run(result), suites))
        return result


class LockedResult(unittest.TextTestResult):
    def __init__(self, *words, **settings):
        super().__init__(*words, **settings)
        self.lock = threading.RLock()
        self.begun = {}

    def startTest(self, test):
        with self.lock:
            self.begun[test] = time.monotonic()
            unittest.TestResult.startTest(self, test)

    def stopTest(self, test):
        with self.lock:
            print(f"{test.id().split('.', 1)[1]}: {time.monotonic() - self.begun[test]:.1f} s", flush=True)
            unittest.TestResult.stopTest(self, test)

    def addSuccess(self, test):
        with self.lock:
            super().addSuccess(test)

    def addFailure(self, test, err):
        with self.lock:
            super().addFailure(test, err)

    def addError(self, test, err):
        with self.lock:
            super().addError(test, err)


def main(module):
    """PROGRAMS [NAME...]: the tests of a module whose names hold one of the words, or all."""
    programs.programs = Path(sys.argv[1]).resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up
    loader = unittest.TestLoader()
    suites = []
    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, SlurmTests) and kind.__module__ == module.__name__:
            names = loader.getTestCaseNames(kind)
            names = [name for name in names if not sys.argv[2:] or any(word in name for word in sys.argv[2:])]
            if names:
                suites.append(SideBySide(map(kind, names)))
    done = unittest.TextTestRunner(resultclass=LockedResult).run(AllAtOnce(suites))
    sys.exit(not done.wasSuccessful())
