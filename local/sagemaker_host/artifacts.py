"""Model artefacts on this machine: fetched from S3 once, unpacked by content hash."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from local.sagemaker_host.errors import StartFailed

MAX_ARTIFACT_BYTES: Final = 1024 * 1024 * 1024  # unpacked


class ArtifactStore:
    """Unpacked artefacts below one folder. The S3 client is any boto3 client for S3."""

    def __init__(self, directory: Path, s3: Any) -> None:
        self._directory = directory
        self._s3 = s3

    def fetch(self, model_data_url: str) -> Path:
        """Download and unpack `s3://bucket/key`; return the folder, named by the archive's hash.

        Raises:
            StartFailed: the object cannot be read, or is no archive that may be unpacked.
        """
        url = urlsplit(model_data_url)
        try:
            packed: bytes = self._s3.get_object(Bucket=url.netloc, Key=url.path.lstrip("/"))["Body"].read()
        except (ClientError, BotoCoreError) as error:
            raise StartFailed(f"failed to download model data from {model_data_url}: {error}") from error
        target = self._directory / hashlib.sha256(packed).hexdigest()[:32]
        if not target.is_dir():
            self._unpack(packed, target, model_data_url)
        return target

    def _unpack(self, packed: bytes, target: Path, model_data_url: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=self._directory, prefix="unpacking-"))
        try:
            with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
                if sum(member.size for member in archive) > MAX_ARTIFACT_BYTES:
                    raise StartFailed(f"{model_data_url} holds more than {MAX_ARTIFACT_BYTES} bytes")
                archive.extractall(scratch, filter="data")  # refuses paths and links that lead outside
            scratch.chmod(0o755)
            try:
                scratch.rename(target)  # whole or not at all
            except OSError:
                if not target.is_dir():  # else another endpoint has just unpacked the same archive
                    raise
        except (tarfile.TarError, EOFError, OSError) as error:
            raise StartFailed(f"{model_data_url} is not a model archive: {error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def keep_only(self, directories: Collection[Path]) -> None:
        """Delete every unpacked artefact but these."""
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                if path not in directories:
                    shutil.rmtree(path, ignore_errors=True)
