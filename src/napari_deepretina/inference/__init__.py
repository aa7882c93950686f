"""From an image to raw instances: the plan, the device, the run."""
