"""Every kind of fault that tests/check_floors.py promises to see, on small trees made for it."""

import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import check_floors  # noqa: E402

FLOORS = """
# ground floor first
room base:
room io:   base
room ops:  base
room top:  base io ops

vendor mpi\\.h:            top/mpi
vendor hdf5.*\\.h:         io
vendor (oneapi/)?dnnl.*:   ops/fast.cpp
vendor boost/.*:           apps data_tools
vendor gtest/.*:           tests
"""


class Floors(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.write("src/FLOORS", FLOORS)
        self.write("src/base/error.hpp", "#pragma once\n#include <string>\n")
        self.write("src/io/h5.hpp", '#include "base/error.hpp"\n')
        self.write("src/ops/ops.hpp", '#include "base/error.hpp"\n')

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def faults(self):
        return check_floors.Checker(self.root).check()

    def assert_one_fault(self, *parts):
        faults = self.faults()
        self.assertEqual(len(faults), 1, faults)
        for part in parts:
            self.assertIn(part, faults[0])

    def test_a_tree_as_planned_has_no_fault(self):
        self.write("src/top/mpi/world.cpp", '#include <mpi.h>\n#include "io/h5.hpp"\n#include "ops/ops.hpp"\n')
        self.write("src/io/h5.cpp", '#include "h5.hpp"\n#include <hdf5.h>\n#include <sys/stat.h>\n')
        self.write("src/ops/fast.cpp", "#include <oneapi/dnnl/dnnl.hpp>\n#include <cmath>\n#include <stdint.h>\n")
        self.write("apps/run.cpp", '#include <boost/program_options.hpp>\n#include "ops/ops.hpp"\n')
        self.write("tests/io/test_h5.cpp", '#include <gtest/gtest.h>\n#include "io/h5.hpp"\n')
        self.assertEqual(self.faults(), [])

    def test_an_include_that_goes_up_is_a_fault(self):
        self.write("src/base/error.cpp", '\n#include "io/h5.hpp"\n')
        self.assert_one_fault("src/base/error.cpp:2:", "goes up")

    def test_an_include_that_goes_sideways_is_a_fault(self):
        self.write("src/ops/load.cpp", '#include "io/h5.hpp"\n')
        self.assert_one_fault("src/ops/load.cpp:1:", "goes sideways", "ops may know base")

    def test_an_include_by_relative_path_is_seen_too(self):
        self.write("src/ops/load.cpp", '#include "../io/h5.hpp"\n')
        self.assert_one_fault("goes sideways")

    def test_an_angled_include_of_our_own_is_seen_too(self):
        self.write("src/ops/load.cpp", "#include <io/h5.hpp>\n")
        self.assert_one_fault("goes sideways")

    def test_src_may_not_know_programs_or_tests(self):
        self.write("apps/options.hpp", "")
        self.write("tests/data.hpp", "")
        self.write("src/top/a.cpp", '#include "apps/options.hpp"\n')
        self.write("src/top/b.cpp", '#include "tests/data.hpp"\n')
        faults = self.faults()
        self.assertEqual(len(faults), 2, faults)
        self.assertIn("nothing below src may know apps", faults[0])
        self.assertIn("nothing below src may know tests", faults[1])

    def test_a_vendor_header_outside_its_room_is_a_fault(self):
        self.write("src/top/loop.cpp", "#include <mpi.h>\n")
        self.assert_one_fault("src/top/loop.cpp:1:", "<mpi.h> outside its room", "top/mpi")

    def test_a_vendor_header_in_quotes_is_seen_too(self):
        self.write("src/top/loop.cpp", '#include "mpi.h"\n')
        self.assert_one_fault("outside its room")

    def test_a_place_is_a_whole_name_not_a_prefix(self):
        self.write("src/top/mpi_like/loop.cpp", "#include <mpi.h>\n")
        self.assert_one_fault("outside its room")

    def test_a_vendor_pattern_matches_whole_names(self):
        self.write("src/top/mpi/world.cpp", "#include <mpi.hpp>\n")
        self.assert_one_fault("<mpi.hpp>", "vendor")

    def test_a_vendor_line_may_name_a_single_file(self):
        self.write("src/ops/fast.cpp", "#include <dnnl.hpp>\n")
        self.write("src/ops/slow.cpp", "#include <dnnl.hpp>\n")
        self.assert_one_fault("src/ops/slow.cpp", "ops/fast.cpp")

    def test_vendor_headers_are_checked_in_programs_and_tests(self):
        for top in ("apps", "data_tools", "tests"):
            with self.subTest(top=top):
                self.write(f"{top}/x.cpp", "#include <hdf5.h>\n")
                self.assert_one_fault(f"{top}/x.cpp:1:", "outside its room")
                (self.root / top / "x.cpp").unlink()

    def test_boost_in_src_and_gtest_in_a_program_are_faults(self):
        self.write("src/top/options.cpp", "#include <boost/program_options.hpp>\n")
        self.write("apps/run.cpp", "#include <gtest/gtest.h>\n")
        self.assertEqual(len(self.faults()), 2)

    def test_an_unknown_angled_header_is_a_fault(self):
        self.write("src/io/png.cpp", "#include <png.h>\n")
        self.assert_one_fault("<png.h>", "vendor")

    def test_a_quoted_header_that_is_found_nowhere_is_a_fault(self):
        self.write("src/io/png.cpp", '#include "io/pgn.hpp"\n')
        self.assert_one_fault("io/pgn.hpp")

    def test_a_computed_include_is_a_fault(self):
        self.write("src/ops/each.cpp", "#include HEADER_OF_THE_DAY\n")
        self.assert_one_fault("HEADER_OF_THE_DAY", "computed")

    def test_comments_are_no_includes(self):
        self.write("src/base/a.cpp", '// #include "io/h5.hpp"\n/*\n#include <mpi.h>\n*/\n#include <vector>\n')
        self.assertEqual(self.faults(), [])

    def test_line_numbers_survive_block_comments(self):
        self.write("src/base/a.cpp", "/* one\ntwo\n*/\n#  include <mpi.h>\n")
        self.assert_one_fault("src/base/a.cpp:4:")

    def test_cuda_and_headers_are_read_too(self):
        self.write("src/base/k.cu", "#include <mpi.h>\n")
        self.write("src/base/k.cuh", "#include <mpi.h>\n")
        self.write("src/base/k.hpp", "#include <mpi.h>\n")
        self.assertEqual(len(self.faults()), 3)

    def test_a_folder_that_is_no_room_is_a_fault(self):
        self.write("src/util/strings.hpp", "")
        self.assert_one_fault("src/util", "no room")

    def test_a_room_may_only_name_rooms_above_its_line(self):
        self.write("src/FLOORS", FLOORS.replace("room io:   base", "room io:   base top"))
        self.assert_one_fault("src/FLOORS:4", "room io names top")

    def test_an_unreadable_line_of_the_plan_is_a_fault(self):
        self.write("src/FLOORS", FLOORS + "rooom attic: base\n")
        self.assert_one_fault("src/FLOORS:", "neither")

    def test_sources_without_a_test_are_listed_but_do_not_fail(self):
        self.write("src/io/h5.cpp", "")
        self.write("src/io/images.cpp", "")
        self.write("src/ops/fast/gemm.cpp", "")
        self.write("src/ops/slow/gemm.cpp", "")
        self.write("tests/io/test_h5.cpp", "")
        self.write("tests/ops/test_fast_gemm.cpp", "")
        checker = check_floors.Checker(self.root)
        self.assertEqual(checker.check(), [])
        self.assertEqual(
            checker.untested(),
            ["src/base/error.hpp", "src/io/images.cpp", "src/ops/ops.hpp", "src/ops/slow/gemm.cpp"],
        )


class ThisTree(unittest.TestCase):
    def test_the_plan_of_this_repository_is_readable(self):
        plan = check_floors.Plan((ROOT / "src/FLOORS").read_text(encoding="utf-8"))
        self.assertEqual(plan.faults, [])
        self.assertIn("base", plan.rooms)
        self.assertEqual(plan.height("base"), 0)


if __name__ == "__main__":
    unittest.main()
