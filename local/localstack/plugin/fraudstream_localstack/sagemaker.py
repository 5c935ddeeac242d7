"""SageMaker: both APIs handed on, byte for byte, to a host that speaks them (SAGEMAKER_URL)."""

# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

import os
from typing import Any, Final

import requests
from localstack.aws.skeleton import Skeleton
from localstack.aws.spec import load_service
from localstack.http import Response
from localstack.services.plugins import Service

_TIMEOUT_S: Final = 65.0
_CONNECTIONS: Final = 32
# Of one hop only; the next one has its own.
_NOT_HANDED_ON: Final = frozenset({"connection", "content-length", "date", "host", "server", "transfer-encoding"})


def handed_on(service_name: str) -> Service:
    """A LocalStack service whose every operation the host carries out, errors included.

    Raises:
        KeyError: SAGEMAKER_URL is not set.
    """
    url = os.environ["SAGEMAKER_URL"]
    session = requests.Session()
    session.trust_env = False  # the host is on this machine, whatever proxy is set
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))

    def hand_on(context: Any, _parsed: object) -> Response:
        asked = context.request
        try:
            answer = session.request(
                asked.method,
                f"{url}{asked.path}",
                data=asked.get_data(),
                headers=_one_hop_less(asked.headers),
                timeout=_TIMEOUT_S,
            )
        except requests.RequestException as error:
            message = f"the SageMaker host does not answer: {type(error).__name__}"
            return Response(message, status=503, headers={"x-amzn-errortype": "ServiceUnavailable"})
        return Response(answer.content, status=answer.status_code, headers=_one_hop_less(answer.headers))

    model = load_service(service_name)
    return Service(service_name, skeleton=Skeleton(model, dict.fromkeys(model.operation_names, hand_on)))


def _one_hop_less(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_HANDED_ON}
