"""`make audit`: the lock files against themselves, then against the known vulnerabilities, which needs the network.

The first part runs anywhere: every distribution pinned and hashed, no address, the lock files of one version of the
code. The second asks PyPI through pip-audit. Where it cannot be asked this says so and fails: not checked is not clean.
`--offline` ends after the first part.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lock_files import FOLDER, npm_problems, problems

PIP_AUDIT = FOLDER.parent / ".venv-audit" / "bin" / "pip-audit"
NPM_LOCKS = ("local/localstack/node/package-lock.json", "tests/integration/node/package-lock.json")
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def vulnerabilities(lock: Path, run: Run = run) -> list[str] | None:
    """One line for each known vulnerability of a lock file; None where the service could not be asked."""
    command = [str(PIP_AUDIT), "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = run([*command, "--timeout", "15", "--requirement", str(lock)])
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"{lock.name}: not checked: {(done.stderr.strip().splitlines() or ['pip-audit said nothing'])[-1]}")
        return None
    lines = []
    for one in found:
        if "skip_reason" in one:
            print(f"{lock.name}: {one['name']} not checked: {one['skip_reason']}")
            return None
        for each in one["vulns"]:
            repaired = ", ".join(each["fix_versions"]) or "no version yet"
            lines.append(f"{lock.name}: {one['name']} {one['version']}: {each['id']}, repaired in {repaired}")
    return lines


def main() -> int:
    wrong = [*problems(), *(line for path in NPM_LOCKS for line in npm_problems(FOLDER.parent / path))]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if wrong:
        return 1
    locks = sorted(FOLDER.glob("*.lock"))
    print(f"{len(locks)} lock files are in order: every distribution pinned and hashed, no address")
    if "--offline" in sys.argv[1:]:
        return 0
    if not PIP_AUDIT.exists():
        print("no .venv-audit: make setup-audit")
        return 1
    asked = {}
    for lock in locks:
        asked[lock] = vulnerabilities(lock)
        if asked[lock] is None:
            print("No answer about known vulnerabilities; run `make audit` where the service for them answers.")
            return 1
    known = [line for lines in asked.values() for line in lines or ()]
    print(*known, sep="\n", end="\n" if known else "")
    print(f"{len(known)} known vulnerabilities in {len(locks)} lock files")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
