"""`python3 requirements/bill_of_materials.py LOCK [OUT]`: a lock file's software bill of materials, CycloneDX 1.6 JSON.

The same lock file gives the same bytes: no time, no machine, and a serial number made from the content. Standard
library only, since the functions' package is built with whatever Python `sam build` finds.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

from lock_files import FOLDER, InvalidLock, Pin, read_lock

# What a lock file is the whole of.
WHAT = {
    "lambdas": "the functions' package",
    "flink-dep": "the package of the Flink job",
    "endpoint": "the inference container",
}


def bill_of_materials(lock: Path) -> dict[str, Any]:
    """The bill of `lock`.

    Raises:
        InvalidLock: the lock file is not in order.
    """
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    pins = read_lock(lock)
    root = f"{project['name']}-{lock.stem}@{project['version']}"
    content = {
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": f"{project['name']}-{lock.stem}",
                "version": project["version"],
                "description": f"{project['description']} Here: {WHAT.get(lock.stem, lock.name)}.",
            }
        },
        "components": [_component(pin) for pin in pins],
        # A lock file says what is there and not who asked for it.
        "dependencies": [
            {"ref": root, "dependsOn": [_purl(pin) for pin in pins]},
            *({"ref": _purl(pin)} for pin in pins),
        ],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        **content,
    }


def _purl(pin: Pin) -> str:
    return f"pkg:pypi/{pin.name}@{pin.version.replace('+', '%2B')}"


def _component(pin: Pin) -> dict[str, Any]:
    """Its hashes belong to the files it is published as, of which an installation takes one."""
    return {
        "type": "library",
        "bom-ref": _purl(pin),
        "name": pin.name,
        "version": pin.version,
        "purl": _purl(pin),
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{pin.name}/{pin.version}/",
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in sorted(set(pin.sha256))],
            }
        ],
    }


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        text = json.dumps(bill_of_materials(Path(arguments[0])), indent=1, ensure_ascii=False) + "\n"
    except (InvalidLock, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if len(arguments) == 2:
        Path(arguments[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments[1]).write_text(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
