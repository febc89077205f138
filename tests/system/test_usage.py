"""Settings that cannot work: exit code 2, one line from rank 0, nothing written."""

import unittest

import programs
from programs import USAGE, Programs


class Usage(Programs):
    def test_rank_0_alone_names_the_nearest_option(self):
        job = self.train(3, run=self.new_run(), code=USAGE, expert_parallel=1, experst=4)
        why, advice = "vitrail-train has no such option", "Did you mean 'experts'\\?"
        self.expect_one_error(job, "unknown option --experst", why, advice)

    def test_a_usage_error_is_the_same_without_mpirun(self):
        run = self.new_run()
        job = self.train(0, run=run, code=USAGE, learning_rate="fast")
        self.expect_one_error(job, "'fast' is not a value of --learning-rate", "a number is expected")
        self.assertFalse(run.exists())

    def test_unknown_key_in_a_configuration_file(self):
        config = self.folder / "bad.cfg"
        config.write_text("bacth = 16\n")
        self.refused(USAGE, "unknown key 'bacth' in '.*bad.cfg'", advice="Did you mean 'batch'\\?", config=config)
        config.write_text("this is no setting\n")
        self.refused(USAGE, "cannot read the configuration file", "lines are 'name = value'.*", config=config)
        config.write_text("run-dir = x\npreset = fmnist\n")
        self.refused(USAGE, "sets 'preset'", "this belongs on the command line alone", config=config)
        self.refused(USAGE, "cannot read the configuration file", config=self.folder / "missing.cfg")

    def test_unknown_preset_and_other_words(self):
        self.refused(USAGE, "'fmnits' is not a value of --preset", advice="Did you mean 'fmnist'\\?", preset="fmnits")
        self.refused(USAGE, "'cosin' is not a value of --schedule", advice="Did you mean 'cosine'\\?", schedule="cosin")
        names = "the names are none, every-N and last-N, or ascending numbers.*"
        self.refused(USAGE, "MoE blocks 'every2'", names, moe="every2")
        self.refused(USAGE, "'.* is not a regular expression", weight_decay_pattern="(")

    def test_experts_and_ranks_that_do_not_fit(self):
        self.refused(
            USAGE,
            "6 experts are not divisible by --expert-parallel 4",
            advice="Use --expert-parallel 2",
            **{"ranks": 4, "batch": 32, "experts": 6},
        )
        self.refused(
            USAGE,
            "3 ranks are not divisible by --expert-parallel 2",
            advice="Use --expert-parallel 1",
            **{"ranks": 3, "batch": 48, "expert_parallel": 2},
        )
        problem = "2 leaves are not divisible over 3 ranks"
        self.refused(USAGE, problem, "a pass takes 3 leaves", "Use a batch of 24 .*", ranks=3, expert_parallel=1)

    def test_a_batch_that_is_not_whole_leaves(self):
        problem = "a batch of 20 images is not divisible into leaves of 8"
        self.refused(USAGE, problem, advice="Use --batch 24 or --leaf-images 4", batch=20)
        self.refused(USAGE, "batch 16, leaf 0", leaf_images=0)
        self.refused(USAGE, "a batch of 0 images", batch=0)

    def test_sizes_that_make_no_model(self):
        problem = "an image of 12x8 pixels holds no patch of 16x4"
        self.refused(USAGE, problem, advice="Use a smaller patch or larger images", patch_rows=16)
        self.refused(USAGE, "width 16 is not divisible by 3 heads", advice="Use --heads .*", heads=3)
        self.refused(USAGE, "9 experts per token", "it must be in 1 .. 8.*", "Use --selected .*", selected=9)
        self.refused(USAGE, "0 experts per token", selected=0)
        self.refused(USAGE, "width is -16", "it must be positive", width=-16)
        self.refused(USAGE, "capacity factor 0.001 gives 0 slots", capacity_factor=0.001, capacity_rounding="floor")
        self.refused(USAGE, "the capacity must be given once", capacity_factor=1, capacity_slots=4)

    def test_a_run_without_length_or_place(self):
        self.refused(USAGE, "as 0 steps and 0 epochs", "exactly one.*", "Give --steps or --epochs", epochs=0, steps=0)
        self.refused(USAGE, "as 6 steps and 2 epochs", "exactly one.*", "Give --steps or --epochs", epochs=2)
        self.refused(USAGE, "inf epochs", epochs="inf", steps=None)
        self.refused(USAGE, "no --data was given", advice=".*vitrail-pack.*", data=None)
        job = self.train(run=None, code=USAGE)
        self.expect_one_error(job, "no --run-dir was given")

    def test_numbers_out_of_their_range(self):
        self.refused(USAGE, "--threads 0", threads=0)
        self.refused(USAGE, "--learning-rate nan", learning_rate="nan")
        self.refused(USAGE, "--beta2 1", beta2=1)
        self.refused(USAGE, "--clip-norm -1", clip_norm=-1)
        self.refused(USAGE, "a warm-up or cool-down of -1", warmup=-1)
        self.refused(USAGE, "noise_std is nan", noise="nan")
        self.refused(USAGE, "shift", shift=-1)

    def test_a_run_directory_that_cannot_be(self):
        (self.folder / "file").write_text("mine")
        self.refused(USAGE, "file/run cannot be made", run=self.folder / "file" / "run", ranks=2)
        self.assertEqual((self.folder / "file").read_text(), "mine")

    def test_the_programs_that_take_no_run_speak_alike(self):
        job = self.job(0, "vitrail-eval", "--run-dri", "x", code=USAGE)
        self.expect_one_error(job, "unknown option --run-dri", advice="Did you mean 'run-dir'\\?")
        job = self.job(2, "vitrail-eval", "--data", self.data, code=USAGE)
        self.expect_one_error(job, "neither --run-dir nor --checkpoint was given")


if __name__ == "__main__":
    programs.main()
