"""From a completion to scores: scorers (one file each), guards, service, client."""
