"""A job that was started wrongly is refused before it computes: exit code 2, one line that says what is wrong."""

import os
import shutil
import subprocess
import unittest

import programs
from programs import DONE, MODEL, USAGE, Programs, options

FREE = ("env", "-u", "OMPI_MCA_rmaps_base_oversubscribe")  # as if mpirun had not been told to oversubscribe
ONE_CPU = (*FREE, "taskset", "-c", str(min(os.sched_getaffinity(0))))


class Launch(Programs):
    def words(self, run, **settings):
        merged = {name.replace("-", "_"): value for name, value in MODEL.items()}
        merged.update({"data": self.data, "run_dir": run, "expert_parallel": 2, "steps": 2}, **settings)
        return options(**merged)

    def two_ranks(self, other_program, code, **other_settings):
        """Rank 0 is the plain one."""
        run = self.new_run()
        return self.job(1, "vitrail-train", *self.words(run), ":", "-np", "1", other_program,
                        *self.words(run, **other_settings), code=code)

    def test_ranks_of_another_build(self):
        other = self.folder / "another" / "vitrail-train"
        other.parent.mkdir()
        shutil.copy(programs.programs / "vitrail-train", other)
        self.assertEqual(self.two_ranks(other, DONE).errors, [])  # a copy is no other program
        with other.open("ab") as file:
            file.write(b"\0")
        job = self.two_ranks(other, USAGE)
        self.expect_one_error(job, r"another program runs as rank 1 on \S+ than as rank 0 on \S+",
                              "the files have the SHA-256 .*", "Install one build where every node sees it.*")

    def test_ranks_with_other_settings(self):
        train = programs.programs / "vitrail-train"
        job = self.two_ranks(train, USAGE, seed=1, save_every=3)
        self.expect_one_error(job, r"other settings hold for rank 1 on \S+ than for rank 0 on \S+",
                              r"ranks 0 and 1 differ in --save-every \(\d+ and 3\), --seed \(0 and 1\)",
                              "Give all ranks the same options.*")

    def test_ranks_with_other_data(self):
        other = self.folder / "other-data"
        self.pack(other / "train", programs.IMAGES, seed=3)
        job = self.two_ranks(programs.programs / "vitrail-train", USAGE, data=other)
        self.expect_one_error(job, r"other settings hold for rank 1 on \S+ than for rank 0 on \S+",
                              r"ranks 0 and 1 differ in --data \(SHA-256 \w+ and SHA-256 \w+\)", ".*")

    def test_the_same_data_elsewhere_is_the_same(self):
        copy = self.folder / "copy-of-data"
        shutil.copytree(self.data, copy)
        self.two_ranks(programs.programs / "vitrail-train", DONE, data=copy)

    def test_more_ranks_than_cpus(self):
        job = self.train(2, run=self.new_run(), wrapper=ONE_CPU, code=USAGE)
        self.expect_one_error(job, r"2 ranks run on \S+, where they may use 1 CPU", ".*", ".*--oversubscribe.*")
        self.train(2, run=self.new_run(), wrapper=ONE_CPU, oversubscribe=True)
        self.train(2, run=self.new_run(), wrapper=ONE_CPU[3:])  # mpirun was told

    def test_more_threads_than_cpus_are_a_warning(self):
        warning = r"vitrail-train: warning: 1 rank of 3 threads runs on \S+, where they may use 1 CPU: see --threads"
        self.assertRegex(self.train(1, run=self.new_run(), wrapper=ONE_CPU, threads=3).said, warning)
        self.assertNotRegex(self.train(1, run=self.new_run(), wrapper=ONE_CPU, threads=1).said, "warning")

    def test_threads_have_cpus_where_mpirun_binds_ranks_to_cores(self):
        if len(os.sched_getaffinity(0)) < 2:
            self.skipTest("one CPU")
        untold = {name: value for name, value in os.environ.items() if not name.startswith("OMPI_MCA_")}
        bench = ["vitrail-bench", "step", "--preset", "fmnist", "--batch", "16", "--threads", "2", "--seconds", "0.1"]
        done = subprocess.run(["mpirun", "-np", "1", programs.programs / bench[0], *bench[1:]], env=untold, check=True,
                              text=True, capture_output=True, timeout=120)
        self.assertNotIn("warning", done.stdout + done.stderr)

    def test_the_other_programs_on_ranks_check_it_too(self):
        run = self.new_run()
        self.train(1, run=run)
        words = ["--run-dir", run, "--data", self.data, "--expert-parallel", "1"]
        job = self.job(2, "vitrail-eval", *words, wrapper=ONE_CPU, code=USAGE)
        self.expect_one_error(job, r"2 ranks run on \S+, where they may use 1 CPU")
        job = self.job(2, "vitrail-bench", "step", wrapper=ONE_CPU, code=USAGE)
        self.expect_one_error(job, r"2 ranks run on \S+, where they may use 1 CPU")


if __name__ == "__main__":
    programs.main()
