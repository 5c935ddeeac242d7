"""`model.tar.gz`: what training hands to serving, as the same bytes for the same content.

model.ubj         the booster, in XGBoost's own binary format
manifest.json     what a caller must know to use it: version, columns, definitions, thresholds
metrics.json      how it did on the rows it was trained and validated on
provenance.json   where it comes from: parameters, file hash, rows, library versions
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from stream_features.errors import ContractMismatch
from stream_features.feature_sets import FEATURE_SETS

ARTIFACT_NAME: Final = "model.tar.gz"
BOOSTER_FILE: Final = "model.ubj"
MANIFEST_FILE: Final = "manifest.json"
METRICS_FILE: Final = "metrics.json"
PROVENANCE_FILE: Final = "provenance.json"
ARTIFACT_FILES: Final = (MANIFEST_FILE, METRICS_FILE, BOOSTER_FILE, PROVENANCE_FILE)  # sorted, as they stand in the tar

MAX_FILE_BYTES: Final = 512 * 1024 * 1024  # a damaged or hostile archive must not fill the memory


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Scores (0..1) from which a transaction is reviewed, and from which it is declined."""

    review_from: float
    decline_from: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """How the booster's score becomes the model's: the line through these points (`model.calibration`).

    Attributes:
        method: isotonic regression.
        scores: what the booster says (0..1), strictly ascending.
        probabilities: what that means (0..1), one per score, never descending; constant beyond the two ends.
    """

    method: Literal["isotonic"]
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The contract of one model. `columns` and `definitions` run in the order of the booster's features.

    Thresholds are about the model's score, which is the booster's where there is no `calibration`.
    """

    model_version: str
    feature_set: str
    feature_set_id: str
    columns: tuple[str, ...]
    definitions: tuple[str, ...]  # 16 hex per column
    thresholds: Thresholds
    calibration: Calibration | None = None  # left out of the file where there is none, so that old readers take it


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The content of one `model.tar.gz`, unpacked."""

    booster_ubj: bytes
    manifest: Manifest
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no white space: equal values, equal bytes."""
    return msgspec.json.encode(value, order="sorted")


def model_version(booster_ubj: bytes, manifest: Manifest) -> str:
    """`<feature set>-<12 hex>` over the booster and everything the manifest says but the version itself."""
    said = msgspec.to_builtins(manifest)
    del said["model_version"]
    digest = hashlib.sha256(booster_ubj + canonical_json(said)).hexdigest()
    return f"{manifest.feature_set}-{digest[:12]}"


def pack_artifact(artifact: Artifact) -> bytes:
    """The bytes of `model.tar.gz`: members sorted, owners, modes and times fixed."""
    content = {
        BOOSTER_FILE: artifact.booster_ubj,
        MANIFEST_FILE: canonical_json(artifact.manifest),
        METRICS_FILE: canonical_json(artifact.metrics),
        PROVENANCE_FILE: canonical_json(artifact.provenance),
    }
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ARTIFACT_FILES:
            member = tarfile.TarInfo(name)  # its defaults are fixed: time 0, owner 0, no names
            member.size = len(content[name])
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(content[name]))
    return gzip.compress(tar_bytes.getvalue(), compresslevel=6, mtime=0)


def write_artifact(artifact: Artifact, directory: Path) -> Path:
    """Write `model.tar.gz` into `directory` (made if absent); return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ARTIFACT_NAME
    path.write_bytes(pack_artifact(artifact))
    return path


def read_artifact(path: Path) -> Artifact:
    """Read and check a `model.tar.gz`.

    Raises:
        ContractMismatch: it is not an artefact, or its parts do not fit together.
        OSError: it cannot be read.
    """
    with path.open("rb") as packed:
        return unpack_artifact(packed.read(), str(path))


def unpack_artifact(packed: bytes, where: str) -> Artifact:
    """Read and check the bytes of a `model.tar.gz`; `where` names it in errors. Raises as `read_artifact`."""
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            for member in archive:
                if member.name not in ARTIFACT_FILES or not member.isfile():
                    continue
                if member.size > MAX_FILE_BYTES:
                    raise ContractMismatch(f"{where}: {member.name} is larger than {MAX_FILE_BYTES} bytes")
                opened = archive.extractfile(member)
                content[member.name] = opened.read() if opened is not None else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ContractMismatch(f"{where} is not a model artefact: {error}") from error
    return _artifact(content, where)


def read_artifact_directory(directory: Path) -> Artifact:
    """Read and check an artefact that the platform has already unpacked. Raises as `read_artifact`."""
    present = {name: directory / name for name in ARTIFACT_FILES if (directory / name).is_file()}
    return _artifact({name: path.read_bytes() for name, path in present.items()}, str(directory))


def _artifact(content: Mapping[str, bytes], where: str) -> Artifact:
    if missing := [name for name in ARTIFACT_FILES if name not in content]:
        raise ContractMismatch(f"{where}: missing {', '.join(missing)}")
    try:
        manifest = msgspec.json.decode(content[MANIFEST_FILE], type=Manifest)
        metrics = msgspec.json.decode(content[METRICS_FILE], type=dict[str, Any])
        provenance = msgspec.json.decode(content[PROVENANCE_FILE], type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ContractMismatch(f"{where}: unreadable JSON: {error}") from error
    artifact = Artifact(booster_ubj=content[BOOSTER_FILE], manifest=manifest, metrics=metrics, provenance=provenance)
    check_artifact(artifact, where)
    return artifact


def check_artifact(artifact: Artifact, where: str) -> None:
    """Refuse an artefact whose parts contradict one another, or this code's definitions of its features.

    Raises:
        ContractMismatch: naming `where`, the part or the column, and both values.
    """
    manifest = artifact.manifest
    if len(manifest.columns) != len(manifest.definitions):
        raise ContractMismatch(
            f"{where}: {len(manifest.columns)} columns but {len(manifest.definitions)} definitions in the manifest"
        )
    if len(set(manifest.columns)) != len(manifest.columns):
        raise ContractMismatch(f"{where}: the manifest names a column twice")
    expected = model_version(artifact.booster_ubj, manifest)
    if manifest.model_version != expected:
        raise ContractMismatch(
            f"{where}: model_version is {manifest.model_version}, but booster and manifest hash to {expected}"
        )
    limits = manifest.thresholds
    if not 0.0 <= limits.review_from <= limits.decline_from <= 1.0:
        raise ContractMismatch(
            f"{where}: thresholds must satisfy 0 <= review_from <= decline_from <= 1, "
            f"not {limits.review_from} and {limits.decline_from}"
        )
    if manifest.calibration is not None:
        _check_calibration(manifest.calibration, where)
    _check_definitions(manifest, where)


def _check_calibration(calibration: Calibration, where: str) -> None:
    scores, probabilities = calibration.scores, calibration.probabilities
    if not scores or len(scores) != len(probabilities):
        raise ContractMismatch(
            f"{where}: calibration needs one probability per score, not {len(scores)} scores and "
            f"{len(probabilities)} probabilities"
        )
    if any(later <= earlier for earlier, later in pairwise(scores)):
        raise ContractMismatch(f"{where}: calibration scores must ascend")
    if any(later < earlier for earlier, later in pairwise(probabilities)):
        raise ContractMismatch(f"{where}: calibration probabilities must not descend")
    if not (0.0 <= scores[0] <= scores[-1] <= 1.0 and 0.0 <= probabilities[0] <= probabilities[-1] <= 1.0):
        raise ContractMismatch(f"{where}: calibration scores and probabilities must lie in 0..1")


def _check_definitions(manifest: Manifest, where: str) -> None:
    """Hold the manifest to the feature set of that name, where this code has one."""
    shipped = FEATURE_SETS.get(manifest.feature_set)
    if shipped is None:
        return  # each request still carries the definitions it was computed by
    known = dict(zip(shipped.names, shipped.definitions, strict=True))
    for column, definition in zip(manifest.columns, manifest.definitions, strict=True):
        if known.get(column) != definition:
            raise ContractMismatch(
                f"{where}: feature {column} was trained by definition {definition}, "
                f"this code's {shipped.name} set has {known.get(column, 'no such feature')}"
            )
