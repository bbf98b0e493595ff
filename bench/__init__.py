"""Speed and memory, measured side by side in one run. `python -m bench --help`; results are kept in docs/bench.md."""
