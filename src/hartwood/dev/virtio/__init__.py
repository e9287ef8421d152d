"""Virtio devices on the memory-mapped transport (virtio 1.2): modern only, split virtqueues."""
