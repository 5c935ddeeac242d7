"""What a deployment fails with."""

from stream_features.errors import PipelineError


class DeploymentFailed(PipelineError):
    """A step of a deployment did not succeed; the message says which, why, and what to do."""
