"""From a prompt to a scored-ready group: processor, engine, worker, weight receiver."""
