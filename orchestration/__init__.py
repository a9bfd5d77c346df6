"""The only room that knows all others: config, command line, cluster, train loop, buffer, ledger, report."""
