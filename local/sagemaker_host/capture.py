"""Data capture: what went into an endpoint and came out of it, as JSON Lines in S3, in SageMaker's own form.

    <DestinationS3Uri>/<endpoint>/<variant>/<yyyy>/<mm>/<dd>/<hh>/<mm>-<ss>-<mmm>-<uuid>.jsonl

Every record is appended to a file below the spool folder at once, under the path it will have in S3, and the file is
uploaded when it is old or large enough, and when the host stops. A host that was killed uploads at its next start what
it left behind.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from local.sagemaker_host.log import log
from local.sagemaker_host.state import CaptureSpec

UPLOAD_EVERY_S: Final = 10.0
FILE_BYTES: Final = 8 * 1024 * 1024  # a file this large is uploaded without waiting for its time
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # also a folder of the spool, so never ".."
Draw = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One invocation and its answer. Bodies as they went over the wire; content types may be empty."""

    endpoint_name: str
    variant_name: str
    input_type: str
    input_body: bytes
    output_type: str
    output_body: bytes
    inference_id: str | None = None
    custom_attributes: str | None = None


class DataCapture:
    """The open files of every endpoint's variant. One event loop only; `close` at the end."""

    def __init__(
        self,
        spool: Path,
        s3: Any,
        *,
        draw: Draw = random.random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        upload_every_s: float = UPLOAD_EVERY_S,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._spool = spool
        self._s3 = s3
        self._draw = draw
        self._now = now
        self._upload_every_s = upload_every_s
        self._file_bytes = file_bytes
        self._open: dict[Path, Path] = {}  # folder of an hour -> the file in it that is being written
        self._uploading: asyncio.Lock = asyncio.Lock()
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Upload what an earlier host left, and from now on whenever it is time."""
        self._task = asyncio.create_task(self._keep_uploading())

    def observe(self, spec: CaptureSpec | None, exchange: Exchange) -> None:
        """Append one record, if the configuration asks for this one. A full disk is logged and fails no invocation."""
        if spec is None or not spec.enabled or self._draw() * 100.0 >= spec.sampling_percentage:
            return
        at = self._now()
        try:
            path = self._file_for(spec, exchange, at)
            with path.open("ab") as written:
                written.write(record(spec, exchange, at))
                if written.tell() >= self._file_bytes:
                    self._full.set()
        except OSError as error:
            log("capture_lost", endpoint=exchange.endpoint_name, reason=str(error))

    async def flush(self) -> None:
        """Upload every file, open ones included; those that S3 does not take stay for the next time."""
        async with self._uploading:
            self._open.clear()  # whatever comes from here on goes into new files
            for path in sorted(self._spool.rglob("*.jsonl")):
                try:
                    await self._upload(path)
                except ClientError as error:  # this file's bucket or key; others may do
                    log("capture_upload_failed", file=str(path), reason=str(error))
                except (BotoCoreError, OSError) as error:  # S3 is away: so it is for the others
                    log("capture_upload_failed", file=str(path), reason=str(error))
                    return

    async def close(self) -> None:
        """Stop and upload everything."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    def _file_for(self, spec: CaptureSpec, exchange: Exchange, at: datetime) -> Path:
        url = urlsplit(spec.destination)
        hour = at.strftime("%Y/%m/%d/%H")
        below = [part for part in url.path.split("/") if part]
        folder = self._spool.joinpath(url.netloc, *below, exchange.endpoint_name, exchange.variant_name, hour)
        path = self._open.get(folder)
        if path is None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{at:%M-%S}-{at.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"
            if spec.kms_key_id:
                path.with_suffix(".kms").write_text(spec.kms_key_id)
            self._open[folder] = path
        return path

    async def _upload(self, path: Path) -> None:
        bucket, *key = path.relative_to(self._spool).parts
        key_file = path.with_suffix(".kms")
        encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_file.read_text()} if key_file.exists() else {}
        )
        request = {"Bucket": bucket, "Key": "/".join(key), "ContentType": "application/jsonlines", **encryption}
        await asyncio.to_thread(self._s3.put_object, Body=path.read_bytes(), **request)
        path.unlink()
        key_file.unlink(missing_ok=True)

    async def _keep_uploading(self) -> None:
        while True:
            await self.flush()
            self._drop_empty_folders()
            try:
                async with asyncio.timeout(self._upload_every_s):  # wait_for may lose the cancellation by `close`
                    await self._full.wait()
            except TimeoutError:
                continue
            self._full.clear()

    def _drop_empty_folders(self) -> None:
        """Hours long gone would otherwise pile up as folders."""
        if self._spool.is_dir() and not self._open and not any(self._spool.rglob("*.jsonl")):
            shutil.rmtree(self._spool, ignore_errors=True)


def record(spec: CaptureSpec, exchange: Exchange, at: datetime) -> bytes:
    """One line: the exchange as SageMaker writes it, ended by a line feed."""
    captured: dict[str, Any] = {}
    if "Input" in spec.modes:
        captured["endpointInput"] = _side(spec, "INPUT", exchange.input_type, exchange.input_body)
    if "Output" in spec.modes:
        captured["endpointOutput"] = _side(spec, "OUTPUT", exchange.output_type, exchange.output_body)
    metadata: dict[str, Any] = {"eventId": str(uuid.uuid4()), "inferenceTime": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
    if exchange.custom_attributes is not None:
        metadata["customAttributes"] = [exchange.custom_attributes]
    if exchange.inference_id is not None:
        metadata["inferenceId"] = exchange.inference_id
    line = {"captureData": captured, "eventMetadata": metadata, "eventVersion": "0"}
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _side(spec: CaptureSpec, mode: Literal["INPUT", "OUTPUT"], content_type: str, body: bytes) -> dict[str, str]:
    encoding, captured = _encoded(spec, content_type, body)
    return {"observedContentType": content_type, "mode": mode, "data": captured, "encoding": encoding}


def _encoded(spec: CaptureSpec, content_type: str, body: bytes) -> tuple[str, str]:
    """Text only for the media types that the configuration names; everything else, as SageMaker does, in base64."""
    media_type = content_type.partition(";")[0].strip().lower()
    for encoding, media_types in (("CSV", spec.csv_types), ("JSON", spec.json_types)):
        if media_type in media_types:
            try:
                return encoding, body.decode()
            except UnicodeDecodeError:
                break
    return "BASE64", base64.b64encode(body).decode()


def capture_spec(config: Mapping[str, Any]) -> CaptureSpec | None:
    """The `DataCaptureConfig` of an endpoint configuration; None where it has none.

    Raises:
        ValueError: it says something that SageMaker refuses, in words for its ValidationException.
    """
    if not config:
        return None
    percentage = config.get("InitialSamplingPercentage")
    if isinstance(percentage, bool) or not isinstance(percentage, int) or not 0 <= percentage <= 100:
        raise ValueError("DataCaptureConfig.InitialSamplingPercentage must be a whole number from 0 to 100.")
    url = urlsplit(str(config.get("DestinationS3Uri", "")))
    if url.scheme != "s3" or not _BUCKET.fullmatch(url.netloc) or ".." in url.path.split("/"):
        raise ValueError("DataCaptureConfig.DestinationS3Uri must be the s3:// URL of a bucket or a prefix in one.")
    options = config.get("CaptureOptions") or []
    asked = [option.get("CaptureMode") if isinstance(option, Mapping) else None for option in options]
    if not asked or any(mode not in ("Input", "Output", "InputAndOutput") for mode in asked):
        raise ValueError("DataCaptureConfig.CaptureOptions needs CaptureMode Input, Output or InputAndOutput.")
    modes = [mode for mode in ("Input", "Output") if mode in asked or "InputAndOutput" in asked]
    header = config.get("CaptureContentTypeHeader") or {}
    return CaptureSpec(
        enabled=bool(config.get("EnableCapture", False)),
        sampling_percentage=percentage,
        destination=f"s3://{url.netloc}{url.path}".rstrip("/"),
        modes=modes,
        csv_types=[str(name).lower() for name in header.get("CsvContentTypes") or []],
        json_types=[str(name).lower() for name in header.get("JsonContentTypes") or []],
        kms_key_id=config.get("KmsKeyId"),
    )


def described(spec: CaptureSpec) -> dict[str, Any]:
    """The `DataCaptureConfig` that DescribeEndpoint answers."""
    summary: dict[str, Any] = {
        "EnableCapture": spec.enabled,
        "CaptureStatus": "Started" if spec.enabled else "Stopped",
        "CurrentSamplingPercentage": spec.sampling_percentage,
        "DestinationS3Uri": spec.destination,
    }
    return {**summary, "KmsKeyId": spec.kms_key_id} if spec.kms_key_id else summary
