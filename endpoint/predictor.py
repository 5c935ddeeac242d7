"""The model behind the container: rows in, scores and reasons out. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xgboost
from xgboost.core import XGBoostError

from endpoint.booster import load_booster
from endpoint.messages import Matrix, Prediction, Reason, ScoringRequest, ScoringResponse
from model.artifact import Artifact, Manifest, read_artifact_directory
from model.calibration import calibrated
from stream_features.errors import ContractMismatch


class Predictor:
    """One loaded model. Safe to call from several threads: XGBoost's tree prediction is."""

    def __init__(self, artifact: Artifact, where: str = "model") -> None:
        """Load the booster and hold it to its manifest.

        Raises:
            ContractMismatch: booster and manifest disagree about the features, or the booster cannot be read.
        """
        self.manifest: Manifest = artifact.manifest
        self._columns = artifact.manifest.columns
        try:
            self._booster = load_booster(artifact.booster_ubj)
        except XGBoostError as error:
            raise ContractMismatch(f"{where}: XGBoost cannot read the booster") from error
        trained_on = tuple(self._booster.feature_names or ())
        if trained_on != self._columns:
            raise ContractMismatch(
                f"{where}: the booster was trained on {list(trained_on)}, the manifest says {list(self._columns)}"
            )
        # One thread: requests run beside one another, and a small batch gains nothing from a second one.
        self._booster.set_param({"nthread": 1})
        nothing_known = np.full((1, len(self._columns)), np.nan, dtype=np.float32)
        self._base = float(self._contributions(nothing_known)[0, -1])

    @classmethod
    def load(cls, model_directory: Path) -> Predictor:  # typing.Self: Python 3.11, AWS's container has 3.10
        """Load the artefact unpacked in `model_directory`. Raises ContractMismatch as the constructor does."""
        return cls(read_artifact_directory(model_directory), str(model_directory))

    def predict(self, request: ScoringRequest) -> ScoringResponse:
        """Score every row; explain those that reach `explain_from`.

        Raises:
            ContractMismatch: a column of the model is missing or is defined differently.
        """
        matrix = self._model_columns(request)
        predictions = self._predictions(matrix, request.explain_from) if len(matrix) else []
        return ScoringResponse(self.manifest.model_version, predictions)

    def _predictions(self, matrix: Matrix, explain_from: float | None) -> list[Prediction]:
        said = self._booster.inplace_predict(matrix, validate_features=False)
        scores = calibrated(self.manifest.calibration, said).tolist()
        margins = self._booster.inplace_predict(matrix, predict_type="margin", validate_features=False).tolist()
        explained = [] if explain_from is None else [row for row, score in enumerate(scores) if score >= explain_from]
        reasons = dict(zip(explained, self._reasons(matrix[explained]), strict=True)) if explained else {}
        return [
            Prediction(score, margin, self._base, reasons.get(row, []))
            for row, (score, margin) in enumerate(zip(scores, margins, strict=True))
        ]

    def _reasons(self, matrix: Matrix) -> list[list[Reason]]:
        contributions = self._contributions(matrix)[:, :-1]
        order = np.argsort(-np.abs(contributions), axis=1, kind="stable")  # stable: equal ones in column order
        ranked = np.take_along_axis(contributions, order, axis=1)
        return [
            [Reason(self._columns[column], value) for column, value in zip(columns, values, strict=True)]
            for columns, values in zip(order.tolist(), ranked.tolist(), strict=True)
        ]

    def _contributions(self, matrix: Matrix) -> Matrix:
        rows = xgboost.DMatrix(matrix, nthread=1)
        contributions: Matrix = self._booster.predict(rows, pred_contribs=True, validate_features=False)
        return contributions

    def _model_columns(self, request: ScoringRequest) -> Matrix:
        """The request's values in the model's column order, after checking that they mean the same."""
        width = request.values.shape[1]
        if request.columns is None:
            if request.feature_set_id not in (None, self.manifest.feature_set_id):
                raise ContractMismatch(
                    f"feature_set_id: the model needs {self.manifest.feature_set_id}, not {request.feature_set_id}"
                )
            if width != len(self._columns):
                raise ContractMismatch(f"the model needs {len(self._columns)} columns in its own order, not {width}")
            return request.values
        positions = self._positions(request.columns, request.definitions)
        if positions == list(range(width)):
            return request.values
        return np.ascontiguousarray(request.values[:, positions])

    def _positions(self, columns: Sequence[str], definitions: Sequence[str] | None) -> list[int]:
        position_of = {column: position for position, column in enumerate(columns)}
        if len(position_of) != len(columns):
            twice = next(column for column in columns if list(columns).count(column) > 1)
            raise ContractMismatch(f"column {twice} is given twice")
        if missing := [column for column in self._columns if column not in position_of]:
            raise ContractMismatch(f"missing column: {', '.join(missing)}")
        positions = [position_of[column] for column in self._columns]
        if definitions is not None:
            if len(definitions) != len(columns):
                raise ContractMismatch(f"{len(columns)} columns but {len(definitions)} definitions")
            for column, position, needed in zip(self._columns, positions, self.manifest.definitions, strict=True):
                if definitions[position] != needed:
                    raise ContractMismatch(
                        f"column {column}: the model needs definition {needed}, not {definitions[position]}"
                    )
        return positions
