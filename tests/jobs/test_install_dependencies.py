"""jobs/install_dependencies.sh with stand-ins for dpkg and apt: what it calls, and what it does not."""

import subprocess
import unittest

from scratch import Scratch

SCRIPT = "jobs/install_dependencies.sh"


class InstallDependencies(Scratch):
    def setUp(self):
        super().setUp()
        self.installed = self.root / "installed"
        self.lists = self.root / "lists"
        self.installed.touch()
        self.stand_in("id", "echo 0")
        # The last word of dpkg-query's call is the package.
        self.stand_in("dpkg-query", f'grep -qx "${{@: -1}}" "{self.installed}" || exit 1; echo -n installed')
        self.stand_in("apt-cache", f'[ -e "{self.lists}" ] && known=1.0; echo "  Candidate: ${{known:-(none)}}"')
        self.stand_in(
            "apt-get",
            f"""
for word in "$@"; do
  case "$word" in
    update) touch "{self.lists}" ;;
    -* | install | *=*) ;;
    *) echo "$word" >>"{self.installed}" ;;
  esac
done""",
        )

    def packages(self, name):
        return self.call(SCRIPT, name, "--print").stdout.split()

    def installs(self):
        return [call for call in self.calls("apt-get") if " install " in f" {call} "]

    def updates(self):
        return [call for call in self.calls("apt-get") if call.endswith(" update")]

    def test_lists_grow_from_build_to_test(self):
        build, quickstart, test = (set(self.packages(name)) for name in ("build", "quickstart", "test"))
        self.assertLess(build, quickstart)
        self.assertLess(quickstart, test)
        self.assertIn("openmpi-bin", build)

    def test_apt_is_not_called_when_all_is_there(self):
        self.installed.write_text("\n".join(self.packages("test")) + "\n")
        done = self.call(SCRIPT, "test")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.calls("apt-get"), [])

    def test_installs_only_what_is_missing_and_says_so(self):
        packages = self.packages("build")
        self.installed.write_text("\n".join(set(packages) - {"cmake", "libhwy-dev"}) + "\n")
        self.lists.touch()
        done = self.call(SCRIPT, "build")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("install: cmake libhwy-dev", done.stdout)
        self.assertEqual(self.updates(), [])
        self.assertEqual(len(self.installs()), 1)
        self.assertTrue(self.installs()[0].endswith(" cmake libhwy-dev"), self.installs())

    def test_updates_the_lists_only_when_they_do_not_know_a_package(self):
        done = self.call(SCRIPT, "build")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(len(self.updates()), 1)
        self.forget_calls()
        done = self.call(SCRIPT, "build")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.calls("apt-get"), [])

    def test_updates_and_tries_again_when_the_lists_are_too_old(self):
        self.lists.touch()
        once = self.root / "once"
        self.stand_in(
            "apt-get",
            f"""
case "$*" in
  *update) touch "{once}" ;;
  *) [ -e "{once}" ] || {{ echo 404 not found; exit 100; }} ;;
esac""",
        )
        done = self.call(SCRIPT, "build")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual((len(self.installs()), len(self.updates())), (2, 1))

    def test_shows_what_apt_said_when_it_fails(self):
        self.stand_in("apt-get", "echo the disk is full; exit 100")
        done = self.call(SCRIPT, "build")
        self.assertEqual(done.returncode, 1)
        self.assertIn("the disk is full", done.stdout)

    def test_uses_sudo_when_not_root(self):
        self.stand_in("id", "echo 1000")
        self.stand_in("sudo", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
        done = self.call(SCRIPT, "build")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertTrue(all("apt-get" in call for call in self.calls("sudo")))
        self.assertTrue(self.installs())

    def test_without_root_and_sudo_it_names_what_to_ask_for(self):
        self.stand_in("id", "echo 1000")
        done = self.call(SCRIPT, "build")
        self.assertEqual(done.returncode, 2)
        self.assertIn("apt-get install g++", done.stdout)
        self.assertEqual(self.calls("apt-get"), [])

    def test_without_apt_it_points_to_spack(self):
        (self.bin / "apt-get").unlink()
        done = self.call(SCRIPT, "build")
        self.assertEqual(done.returncode, 2)
        self.assertIn("Spack", done.stdout)

    def test_an_unknown_list_is_refused(self):
        for arguments in ((), ("everything",), ("build", "--prin")):
            self.assertEqual(self.call(SCRIPT, *arguments).returncode, 2, arguments)

    def test_syntax_of_every_job_script(self):
        jobs = self.root / "jobs"
        for script in sorted([*jobs.glob("*.sh"), *jobs.glob("*.sbatch"), *jobs.glob("*.env")]):
            done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
