"""Typed clients of the inference API (port 8080) and the management API (port 8081)."""

from serving.client.inference import InferenceClient, Prediction
from serving.client.management import ManagementClient
from serving.client.models import ModelSummary, ModelVersion, TrafficShare, WorkerInfo
from serving.client.transport import Address, Transport

__all__ = [
    "Address",
    "InferenceClient",
    "ManagementClient",
    "ModelSummary",
    "ModelVersion",
    "Prediction",
    "TrafficShare",
    "Transport",
    "WorkerInfo",
]
