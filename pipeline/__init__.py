"""The pipeline: capture, batching, captioning, rules, alerts and outputs, joined by queues."""
