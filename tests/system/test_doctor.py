"""vitrail-doctor: says what is off, and ends with 2 exactly when something is bad."""

import json
import os
import re
import unittest

import programs
from programs import DONE, USAGE, Programs

FULL_DISK = ["bash", "-c", 'trap "" XFSZ; ulimit -f 16; exec "$@"', "bash"]
SOCKETS = {"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_pml": "ob1"}
OWN_FOLDER = ["bash", "-c", 'cd "own-$OMPI_COMM_WORLD_RANK"; exec "$@"', "bash"]
LINE = re.compile(r"^(ok|warn|bad) +([a-z0-9-]+) +(\S.*)$")


class Doctor(Programs):
    def setUp(self):
        self.run_dir = self.folder / "runs of mine"
        self.run_dir.mkdir(exist_ok=True)

    def doctor(self, ranks, *words, code=DONE, **rest):
        """What it found: [(health, check, text)]."""
        job = self.job(ranks, "vitrail-doctor", *words, code=code, **rest)
        lines = [match.groups() for match in map(LINE.match, job.said.splitlines()) if match]
        counted = re.search(r"^(\d+) ok, (\d+) to look at, (\d+) bad$", job.said, re.MULTILINE)
        self.assertTrue(counted, job.said)
        for place, health in enumerate(("ok", "warn", "bad"), 1):
            self.assertEqual(int(counted.group(place)), sum(line[0] == health for line in lines), job.said)
        return lines

    def expect(self, lines, health, check, text):
        self.assertTrue(any(line[:2] == (health, check) and re.search(text, line[2]) for line in lines), lines)

    def test_one_process_without_mpirun(self):
        lines = self.doctor(0, "--run-dir", self.run_dir, "--mib", 1)
        checks = {check for _, check, _ in lines}
        self.assertLessEqual({"mpi", "program", "hdf5", "cpu", "pinning", "memory", "limits", "gpu"}, checks)
        self.assertLessEqual({"environment", "start", "run-dir", "space", "rename", "fsync", "locks", "speed"}, checks)
        self.expect(lines, "ok", "locks", "^POSIX locks: seen by another process$")
        self.expect(lines, "ok", "locks", "^flock: seen by another process$")
        self.assertEqual(list(self.run_dir.iterdir()), [])

    def test_several_ranks(self):
        lines = self.doctor(3, "--run-dir", self.run_dir, "--mib", 1)
        self.expect(lines, "ok", "mpi", "3 ranks, as many as mpirun started")
        self.expect(lines, "ok", "program", "the same on all ranks")
        self.expect(lines, "ok", "run-dir", "all ranks see what is written")
        self.expect(lines, "ok", "locks", "^flock: seen by another process and all ranks$")
        self.expect(lines, "ok", "clocks", "clocks of all ranks")
        self.assertEqual(list(self.run_dir.iterdir()), [])

    def test_json_says_the_same(self):
        job = self.job(2, "vitrail-doctor", "--json", "--run-dir", self.folder / "nowhere", code=USAGE)
        report = json.loads(job.said.splitlines()[0])  # mpirun has a word about exit codes behind it
        self.assertEqual((report["ranks"], len(report["hosts"])), (2, 2))
        bad = [finding for finding in report["findings"] if finding["health"] == "bad"]
        self.assertEqual([(finding["check"], finding["ranks"]) for finding in bad], [("run-dir", [0, 1])])
        self.assertTrue(all(finding["advice"] for finding in report["findings"] if finding["health"] != "ok"))

    def test_a_folder_in_which_nothing_can_be_made(self):
        lines = self.doctor(2, "--run-dir", "/proc", code=USAGE)
        self.expect(lines, "bad", "run-dir", "cannot make anything in '/proc': .*It must belong to you")

    def test_ranks_that_do_not_share_a_file_system(self):
        for rank in range(2):
            (self.folder / f"own-{rank}").mkdir()
        lines = self.doctor(2, "--run-dir", ".", code=USAGE, wrapper=OWN_FOLDER)
        self.expect(lines, "bad", "run-dir", "^rank 1: .* does not see what rank 0 wrote")
        self.assertEqual(list(self.folder.glob("own-*/*")), [])

    def test_a_full_disk(self):
        words = ["--run-dir", self.run_dir, "--mib", 1]
        lines = self.doctor(2, *words, code=USAGE, wrapper=FULL_DISK, environment=SOCKETS)
        self.expect(lines, "bad", "limits", r"files of at most 16\.4 kB \(ulimit -f\)")
        self.expect(lines, "bad", "rename", "File too large")
        self.expect(lines, "bad", "speed", "rank 0 on .* cannot write: File too large")
        self.expect(lines, "bad", "speed", "rank 1 on .* cannot write: File too large")
        self.expect(lines, "warn", "environment", "^OMPI_MCA_btl=self,tcp. Ranks of a node exchange through sockets")
        self.assertEqual(list(self.run_dir.iterdir()), [])

    def test_all_ranks_on_one_core(self):
        core = min(os.sched_getaffinity(0))
        if os.cpu_count() == 1:
            self.skipTest("there is no other core")
        lines = self.doctor(2, code=USAGE, wrapper=["taskset", "-c", str(core)])
        self.expect(lines, "bad", "pinning", rf"2 ranks of .* share 1 core \({core}\) of \d+")

    def test_a_launcher_that_does_not_connect_its_tasks(self):
        lines = self.doctor(0, code=USAGE, environment={"PMI_SIZE": "4"})
        self.expect(lines, "bad", "mpi", "1 rank, but a PMI launcher started 4 tasks")
        job = self.job(0, "vitrail-doctor", code=USAGE, environment={"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"})
        self.expect_one_error(job, "Slurm started 4 tasks", advice="Start with srun --mpi=pmix.*")

    def test_variables_that_hurt(self):
        lines = self.doctor(0, environment={"OMP_NUM_THREADS": "4096", "CUDA_VISIBLE_DEVICES": ""})
        self.expect(lines, "warn", "environment", "^OMP_NUM_THREADS=4096. A rank may use")
        self.expect(lines, "warn", "environment", "^CUDA_VISIBLE_DEVICES=")

    def test_a_check_that_does_not_end(self):
        job = self.job(2, "vitrail-doctor", "--time-limit", "0.001", code=USAGE)
        self.assertRegex(job.said, r"bad +[a-z-]+: rank \d on \S+ is still in this check after 0.001 s")

    def test_usage(self):
        job = self.job(0, "vitrail-doctor", "--run-dri", "x", code=USAGE)
        self.expect_one_error(job, "unknown option --run-dri", advice="Did you mean 'run-dir'\\?")
        for words in (["--mib", "0"], ["--time-limit", "-1"], ["--time-limit", "nan"], ["word"]):
            self.assertEqual(len(self.job(2, "vitrail-doctor", *words, code=USAGE).errors), 1)


if __name__ == "__main__":
    programs.main()
