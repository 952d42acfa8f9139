"""Sends usage events to Usance: in batches, in the background, each counted once."""

from usance_client.client import UsageClient
from usance_client.events import Event, QueueFull, Rejection, new_event_id

__all__ = ["Event", "QueueFull", "Rejection", "UsageClient", "new_event_id"]
