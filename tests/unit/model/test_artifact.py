"""`model.tar.gz`: deterministic, and refused when its parts contradict one another."""

from __future__ import annotations

import gzip
import io
import tarfile

import msgspec
import pytest

from model.artifact import (
    ARTIFACT_FILES,
    MANIFEST_FILE,
    Artifact,
    pack_artifact,
    read_artifact,
    read_artifact_directory,
    unpack_artifact,
    write_artifact,
)
from stream_features.errors import ContractMismatch
from tests.unit.endpoint.models import CORE, an_artifact, with_manifest


def packed_with(artifact: Artifact, name: str, content: bytes | None) -> bytes:
    """The artefact's archive with one member replaced, or left out."""
    members = {}
    with tarfile.open(fileobj=io.BytesIO(pack_artifact(artifact))) as archive:
        for member in archive:
            extracted = archive.extractfile(member)
            assert extracted is not None
            members[member.name] = extracted.read()
    if content is None:
        del members[name]
    else:
        members[name] = content
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for member_name, member_content in members.items():
            info = tarfile.TarInfo(member_name)
            info.size = len(member_content)
            archive.addfile(info, io.BytesIO(member_content))
    return packed.getvalue()


def test_what_was_written_is_read_back(tmp_path):
    artifact = an_artifact()
    assert read_artifact(write_artifact(artifact, tmp_path / "out")) == artifact


def test_the_same_content_gives_the_same_bytes_with_nothing_of_time_or_user_in_them():
    packed = pack_artifact(an_artifact())
    assert packed == pack_artifact(an_artifact())
    assert packed[4:8] == bytes(4)  # gzip's time stamp
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == sorted(ARTIFACT_FILES)
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}


def test_an_unpacked_artifact_reads_the_same(tmp_path):
    with tarfile.open(fileobj=io.BytesIO(pack_artifact(an_artifact()))) as archive:
        archive.extractall(tmp_path, filter="data")
    assert read_artifact_directory(tmp_path) == an_artifact()


def test_the_version_names_the_feature_set_and_changes_with_booster_and_thresholds():
    versions = {
        an_artifact().manifest.model_version,
        an_artifact(seed=1).manifest.model_version,
        with_manifest(an_artifact().booster_ubj, review_from=0.4).manifest.model_version,
    }
    assert len(versions) == 3
    assert all(version.startswith("core-") and len(version) == len("core-") + 12 for version in versions)


@pytest.mark.parametrize("missing", ARTIFACT_FILES)
def test_an_archive_without_one_of_its_files_is_refused_by_name(missing):
    with pytest.raises(ContractMismatch, match=missing):
        unpack_artifact(packed_with(an_artifact(), missing, None), "here")


@pytest.mark.parametrize("packed", [b"", b"not an archive", gzip.compress(b"not a tar", mtime=0)])
def test_what_is_no_archive_is_refused(packed):
    with pytest.raises(ContractMismatch, match=r"here"):
        unpack_artifact(packed, "here")


def test_a_booster_exchanged_under_its_manifest_is_refused():
    tampered = packed_with(an_artifact(), "model.ubj", an_artifact(seed=1).booster_ubj)
    with pytest.raises(ContractMismatch, match="model_version"):
        unpack_artifact(tampered, "here")


def test_a_changed_threshold_is_refused():
    said = msgspec.to_builtins(an_artifact().manifest)
    said["thresholds"]["review_from"] = 0.1
    with pytest.raises(ContractMismatch, match="model_version"):
        unpack_artifact(packed_with(an_artifact(), MANIFEST_FILE, msgspec.json.encode(said)), "here")


def test_thresholds_out_of_order_are_refused():
    disordered = with_manifest(an_artifact().booster_ubj, review_from=0.9, decline_from=0.5)
    with pytest.raises(ContractMismatch, match="thresholds"):
        unpack_artifact(pack_artifact(disordered), "here")


def test_a_definition_that_this_code_computes_differently_is_refused_naming_the_feature():
    definitions = (*CORE.definitions[:-1], "0" * 16)
    changed = with_manifest(an_artifact().booster_ubj, definitions=definitions)
    with pytest.raises(ContractMismatch, match=CORE.names[-1]):
        unpack_artifact(pack_artifact(changed), "here")


def test_a_feature_set_this_code_does_not_have_is_left_to_the_requests():
    foreign = with_manifest(
        an_artifact().booster_ubj, feature_set_name="elsewhere", definitions=("0" * 16,) * len(CORE.names)
    )
    assert unpack_artifact(pack_artifact(foreign), "here") == foreign
