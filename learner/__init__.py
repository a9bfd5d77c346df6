"""From groups to new weights: advantages, losses, batching, group attention, DeepSpeed, weight sender, SFT."""
