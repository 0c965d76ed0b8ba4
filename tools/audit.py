"""Ask the OSV database whether a pinned package has a known vulnerability (`make audit`).

It fails at each that is not in KNOWN. Where the database cannot be reached, one line says so, and that
is no failure. pip-audit does the work. This decides what its answer means, since pip-audit calls
packages that it has not audited harmless.
"""

import json
import re
import subprocess
import sys

from tools.working_tree import ROOT

FILES = ("stages/requirements.txt", "requirements.txt", "requirements-dev.txt")

# What we live with, and why. One that is not reported any more has to go: so a database that knows
# nothing is noticed, too.
KNOWN = {
    "CVE-2025-69872": "diskcache comes with DVC and reads pickles; `make install` keeps them in a "
    "folder that no other user may enter (tools/site_cache.sh); no release mends it",
}

# How pip-audit ends, after a traceback or not, where the database does not answer as it should.
NO_ANSWER = re.compile(
    r"^((?:requests\.exceptions\.\w+|pip_audit\._service\.interface\.ServiceError|"
    r"ERROR:pip_audit\._cli:Could not connect).*)",
    re.MULTILINE,
)


def pins() -> dict[str, str]:
    """Return the version of each pinned package."""
    text = "\n".join((ROOT / name).read_text() for name in FILES)
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))


def judge(report: dict, pinned: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the faults, a line each, and what is known and reported; `report` is pip-audit's."""
    faults, found = [], set()
    audited = {each["name"] for each in report["dependencies"] if "skip_reason" not in each}
    for package in report["dependencies"]:
        for vulnerability in package.get("vulns", []):
            names = {vulnerability["id"], *vulnerability["aliases"]}
            if names & set(KNOWN):
                found |= names & set(KNOWN)
                continue
            mended = ", ".join(vulnerability["fix_versions"]) or "no release"
            what = f"{package['name']} {package['version']}: {', '.join(sorted(names))}"
            faults.append(f"{what}; mended in {mended}")
    for name in sorted(set(pinned) - audited):
        faults.append(f"{name} {pinned[name]}: was not audited")
    for name in sorted(set(KNOWN) - found):
        faults.append(f"{name}: is not reported any more; remove it from KNOWN in tools/audit.py")
    return faults, sorted(found)


def main() -> None:
    pinned = pins()
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service=osv", "--format=json"]
    command += [
        "--disable-pip",
        "--no-deps",
        "--progress-spinner=off",
        "--aliases=on",
        "--desc=off",
    ]
    command += [f"--requirement={name}" for name in FILES]
    try:
        result = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
        )
    except subprocess.TimeoutExpired:
        print("audit: the OSV database did not answer in 5 minutes: nothing is audited")
        return
    if not result.stdout:
        if unanswered := NO_ANSWER.findall(result.stderr):
            print(f"audit: the OSV database gave no answer ({unanswered[-1]}): nothing is audited")
            return
        sys.exit(f"{result.stderr}error: pip-audit has failed (see above); nothing is audited")
    faults, found = judge(json.loads(result.stdout), pinned)
    if faults:
        sys.exit("\n".join(f"error: {fault}" for fault in faults))
    print(f"audit: {len(pinned)} pinned packages, no vulnerability but what we know of:")
    print("\n".join(f"  {name}: {KNOWN[name]}" for name in found))


if __name__ == "__main__":
    main()
