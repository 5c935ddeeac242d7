"""`package`: what a deployment needs beside the template."""

from __future__ import annotations

import json
from pathlib import Path

import click

from console.options import exit_codes, require_folder_of


@click.group("package")
def package_command() -> None:
    """Build what a deployment needs beside the template."""


@package_command.command("flink")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("app.zip"),
    show_default=True,
    help="Where the zip goes.",
)
@click.option("--upload", is_flag=True, help="Put it into the stack's bucket of artefacts as flink/<sha256>.zip.")
@click.option(
    "--stack-name", default=None, metavar="NAME", help="With --upload: a stack on AWS instead of the running pipeline."
)
@click.option("--python-version", default=None, metavar="X.Y", help="For a Flink other than the service's (3.12).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@exit_codes
def flink_command(out: Path, upload: bool, stack_name: str | None, python_version: str | None, as_json: bool) -> None:
    r"""Build the package of Managed Service for Apache Flink: the same sources give the same bytes.

    \b
    Example:
      fraudstream package flink --out app.zip
      fraudstream package flink --upload --stack-name fraudstream
    """
    from console.packaging import PYTHON_OF_THE_SERVICE, build_flink_package, upload_flink_package
    from stream_features.errors import UsageError

    require_folder_of(out)
    if stack_name is not None and not upload:
        raise UsageError("--stack-name says where to upload: add --upload")
    target = _target(stack_name) if upload else None  # what is not there is said before the building
    package = build_flink_package(out, python_version=python_version or PYTHON_OF_THE_SERVICE)
    answer: dict[str, object] = {
        "path": str(package.path),
        "sha256": package.sha256,
        "size_bytes": package.size_bytes,
        "has_connector": package.has_connector,
    }
    if target is not None:
        s3, bucket = target
        answer |= {"bucket": bucket, "key": upload_flink_package(s3, bucket, package)}
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"{package.path}  {package.size_bytes / 1e6:.1f} MB  sha256 {package.sha256}")
    if not package.has_connector:
        click.echo(
            "without lib/pyflink-dependencies.jar: `make setup-flink` could not build the connector here, so the job "
            "of this zip runs with connector = polling only",
            err=True,
        )
    if target is not None:
        click.echo(f"bucket {answer['bucket']}\nkey {answer['key']}")


def _target(stack_name: str | None) -> tuple[object, str]:
    """An S3 client and the bucket: of the running pipeline, or of a stack that the environment's credentials reach."""
    if stack_name is None:
        from console.running import running_pipeline

        pipeline = running_pipeline()
        return pipeline.client("s3"), pipeline.output("ArtifactsBucketName")
    import boto3

    from console.packaging import bucket_of_stack

    return boto3.client("s3"), bucket_of_stack(boto3.client("cloudformation"), stack_name)
