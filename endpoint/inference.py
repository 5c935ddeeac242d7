"""The entry point of AWS's XGBoost container: `code/inference.py` in `model.tar.gz`.

The container copies this file away from its neighbours and imports the copy too, so it finds them by the folder they
were unpacked in. Everything it does is in `endpoint.script_mode`.
"""

import os
import sys

_CANDIDATES = (
    os.path.dirname(os.path.abspath(__file__)),
    os.environ.get("SAGEMAKER_SUBMIT_DIRECTORY", ""),
    os.path.join(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"), "model", "code"),
)
_CODE = next(
    (folder for folder in _CANDIDATES if os.path.exists(os.path.join(folder, "endpoint", "script_mode.py"))), None
)
if _CODE is not None:
    # In front: the container has a folder named `model` of its own. `vendor` holds packages where no network is.
    sys.path[:0] = [_CODE, os.path.join(_CODE, "vendor")]

from endpoint.script_mode import input_fn, model_fn, output_fn, predict_fn  # noqa: E402

__all__ = ["input_fn", "model_fn", "output_fn", "predict_fn"]
