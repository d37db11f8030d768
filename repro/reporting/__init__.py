"""From the records of a study to all that is shown of it: no torch, no accelerator, no network."""
