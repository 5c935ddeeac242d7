"""Drives AWS's serving toolkit as its container does, one request after another. Runs in any Python that has it.

    python toolkit_driver.py MODEL_DIR < cases.json > answers.json

A case is [content type, accept, custom attributes, body in base64]; an answer [status, headers, body in base64].
MODEL_DIR is an unpacked model.tar.gz with its `code/`, which stands first on the path as the container puts it there.
"""

import base64
import json
import os
import sys


class Context:
    """What the model server in front of the toolkit hands to it (multi-model-server's `mms.context.Context`)."""

    def __init__(self, model_dir):
        self.system_properties = {"model_dir": model_dir}
        self.begin({})

    def begin(self, headers):
        self.headers = headers
        self.status = 200
        self.response_headers = {}
        self.request_processor = [self]

    def get_request_properties(self):
        return self.headers

    def get_all_request_header(self, index):
        return self.headers

    def get_request_header(self, index, key):
        return self.headers.get(key)

    def set_response_status(self, code=200, phrase="", idx=0):
        self.status = code

    def set_response_header(self, index, key, value):
        self.response_headers[key.lower()] = value

    def set_response_content_type(self, index, value):
        self.set_response_header(index, "content-type", value)


def answers(model_dir, cases):
    os.environ["SAGEMAKER_PROGRAM"] = "inference.py"
    os.environ["SAGEMAKER_SUBMIT_DIRECTORY"] = os.path.join(model_dir, "code")
    sys.path.insert(0, os.path.join(model_dir, "code"))
    from sagemaker_inference.default_handler_service import DefaultHandlerService

    context = Context(model_dir)
    service = DefaultHandlerService()
    service.initialize(context)
    for content_type, accept, attributes, body in cases:
        headers = {"Content-Type": content_type, "Accept": accept, "X-Amzn-SageMaker-Custom-Attributes": attributes}
        context.begin({name: value for name, value in headers.items() if value})
        [said] = service.handle([{"body": bytearray(base64.b64decode(body))}], context)
        raw = said.encode() if isinstance(said, str) else bytes(said)
        yield [context.status, context.response_headers, base64.b64encode(raw).decode()]


if __name__ == "__main__":
    print(json.dumps(list(answers(sys.argv[1], json.load(sys.stdin)))))
