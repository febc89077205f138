"""--recompute: less is kept for the backward pass, and nothing else changes."""

import json
import unittest

import programs
from programs import USAGE, Programs

# Two sparse blocks and two dense ones: one of each is computed again though it is not the last.
BLOCKS = {"blocks": 4, "moe": "0,2", "steps": 3}
DROPOUTS = {"dropout": 0.1, "attention_dropout": 0.1, "expert_dropout": 0.2, "stochastic_depth": 0.2}


class Recompute(Programs):
    def outcome(self, ranks, *, run=None, **settings):
        """Digest of the end and metrics of every step."""
        run = run or self.new_run()
        self.train(ranks, run=run, digest=True, **{**BLOCKS, **settings})
        return self.summary(run)["digest"], self.metrics(run)

    def expect_the_same(self, **settings):
        alone = self.outcome(0, **settings)
        for ranks, recompute, leaves in ((0, "block", 1), (2, "mlp", 1), (2, "block", 0)):
            with self.subTest(ranks=ranks, recompute=recompute):
                again = self.outcome(ranks, recompute=recompute, leaves_per_pass=leaves, **settings)
                self.assertEqual(again, alone)
        return alone[0]

    def test_every_router_gives_the_same_bits_on_every_layout(self):
        seen = {
            self.expect_the_same(**DROPOUTS),
            self.expect_the_same(router="experts-choice", capacity_factor=1, normalize_gates=True),
            self.expect_the_same(router="soft", group_images=1, classifier="map", exchange_dtype="bf16"),
            self.expect_the_same(precision="bf16", token_order="random", capacity_factor=0.5),
        }
        self.assertEqual(len(seen), 4)

    def test_a_resumed_run_may_compute_again_what_it_kept_before(self):
        straight, parts = self.outcome(0), self.new_run()
        self.train(0, run=parts, stop_after=1, recompute="block", **BLOCKS)
        self.train(2, run=parts, stop_after=1, resume=True, **BLOCKS)
        self.assertEqual(self.outcome(2, run=parts, resume=True, recompute="mlp"), straight)
        record = json.loads((parts / "jobs" / "0003.json").read_text())
        self.assertEqual(record["settings"]["recompute"], "mlp")

    def test_less_memory_is_taken(self):
        taken = []
        for recompute in ("none", "mlp", "block"):
            run = self.new_run()
            self.train(0, run=run, recompute=recompute, **BLOCKS)
            record = json.loads((run / "jobs" / "0001.json").read_text())
            taken.append(record["memory_bytes"]["activations"])
        self.assertEqual(taken, sorted(taken, reverse=True))
        self.assertEqual(len(set(taken)), 3)

    def test_other_values_are_refused(self):
        self.refused(USAGE, "'blocks' is not a value of --recompute", advice="Did you mean 'block'\\?", recompute="blocks")


if __name__ == "__main__":
    programs.main()
