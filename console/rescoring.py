"""A decision's score computed again by its model's artefact, with the share of every feature in it.

The artefact is loaded by the serving container's own code, so what is compared is the stored score with what that
container answers for the same features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from botocore.exceptions import BotoCoreError, ClientError
from numpy.typing import NDArray

from console.running import Pipeline
from endpoint.messages import Prediction, ScoringRequest
from endpoint.predictor import Predictor
from model.artifact import Artifact, Manifest, unpack_artifact
from model.calibration import calibrated
from model.registry import artifact_key
from stream_features.decision import Decision
from stream_features.errors import PortFailure
from stream_features.feature_sets import FeatureSet

SUM_TOLERANCE: Final = 1e-4  # float32 sums over hundreds of trees
_ROUNDINGS: Final = 4  # of float32 between two ways to write a sigmoid


@dataclass(frozen=True, slots=True)
class Rescored:
    """What the artefact says.

    Attributes:
        stored: the prediction for the stored features.
        recomputed: for the features computed again; None where there are none.
        manifest: of the model.
    """

    stored: Prediction
    recomputed: Prediction | None
    manifest: Manifest

    @property
    def sum_error(self) -> float:
        """By how much base value and contributions miss the margin, in log-odds."""
        total = math.fsum(reason.contribution for reason in self.stored.reasons) + self.stored.base
        return abs(total - self.stored.margin)

    @property
    def score_follows_from_margin(self) -> bool:
        """Whether the score is the margin's sigmoid, calibrated where the model is, but for float32's last digits."""
        probability = np.float32(1.0 / (1.0 + math.exp(-self.stored.margin)))
        low = high = probability
        for _ in range(_ROUNDINGS):
            low, high = np.nextafter(low, np.float32(0)), np.nextafter(high, np.float32(1))
        ends: NDArray[np.float32] = calibrated(self.manifest.calibration, np.array([low, high], dtype=np.float32))
        return bool(ends[0] <= self.stored.score <= ends[1])


def artifact_of(pipeline: Pipeline, model_version: str) -> Artifact | None:
    """The artefact of a model that was activated here; None if it is not kept.

    Raises:
        PortFailure: S3 did not answer.
        ContractMismatch: it is no artefact of this code's features.
    """
    bucket, key = pipeline.output("ArtifactsBucketName"), artifact_key(model_version)
    try:
        packed: bytes = pipeline.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404", "NotFound"):
            return None
        raise PortFailure(f"s3://{bucket}/{key}: {error}") from error
    except BotoCoreError as error:
        raise PortFailure(f"s3://{bucket}/{key}: {error}") from error
    return unpack_artifact(packed, f"s3://{bucket}/{key}")


def rescore(
    artifact: Artifact, decision: Decision, features: FeatureSet, recomputed: tuple[float, ...] | None
) -> Rescored:
    """Predict for the stored vector, and for the one computed again if there is one.

    Raises:
        ContractMismatch: the model needs other features than the decision has.
    """
    stored = [math.nan if (value := decision.features[name]) is None else value for name in features.names]
    rows = [stored] if recomputed is None else [stored, list(recomputed)]
    answer = Predictor(artifact).predict(
        ScoringRequest(
            values=np.array(rows, dtype=np.float32),
            columns=features.names,
            definitions=features.definitions,
            feature_set_id=features.feature_set_id,
            explain_from=0.0,
        )
    )
    return Rescored(answer.predictions[0], answer.predictions[1] if recomputed else None, artifact.manifest)
